"""A data set of the Hugging Face hub, or a local folder that `datasets.load_dataset` can read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import xxhash

from launcher.config.errors import Problem, UserError
from launcher.data._source import SourceConfig, limited, pick


class Config(SourceConfig):
    """`name`, `config`, `split` and `revision` as load_dataset takes them."""

    kind: Literal["hub"] = "hub"
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None


def fingerprint(config: Config, key: str) -> str:
    folder = Path(config.name)
    if folder.is_dir():
        state = xxhash.xxh3_128()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            state.update(f"{path.relative_to(folder)}\0".encode())
            state.update(path.read_bytes())
        return f"{state.hexdigest()} {config.config} {config.split}"
    return f"hub {config.name} {config.config} {config.split} {config.revision}"


def rows(config: Config, columns: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    return limited(_rows(config, columns, key), config)


def _rows(config: Config, columns: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    data = _load(config, key)
    names = getattr(data.features.get(config.label), "names", None)  # a ClassLabel: numbers that stand for names
    for number, row in enumerate(data):
        where = f"{config.name}[{config.split}] row {number}"
        picked = pick(row, config, columns, where, key)
        if names and isinstance(label := picked.get("label"), int):
            if label < 0:  # as the hub marks what nobody labelled
                raise UserError(f"{where}: {key}.label: has no label ({label}): choose another split")
            picked["label"] = names[label]
        yield picked


def _load(config: Config, key: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(config.name, config.config, split=config.split, revision=config.revision)
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        what = f"{config.name} cannot be had: {str(error).splitlines()[0]}"
        todo = f"run `launcher prepare` once where the hub can be reached, or override {key} with local files"
        raise UserError(Problem(f"{key}.name", f"{what} ({todo})")) from None
    except ValueError as error:
        raise UserError(Problem(key, f"{config.name}: {str(error).splitlines()[0]}")) from None
