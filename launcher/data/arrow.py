"""A folder that `save_to_disk` of `datasets` has written."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from launcher import data
from launcher.config.atomic_files import expanded, is_dir
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.types import hint
from launcher.data import BadRow, Part, Row
from launcher.data._source import SourceConfig, fingerprint_folder
from launcher.data._tables import dataset_parts, dataset_rows


class Config(SourceConfig):
    """A dataset that save_to_disk saved."""

    kind: Literal["arrow"] = "arrow"
    path: str
    """Folder of the dataset."""
    split: str | None = None
    """Split to read, where the folder holds several."""


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        return f"{fingerprint_folder(_folder(self.config, key))} {self.config.split}"

    def parts(self, key: str) -> list[Part]:
        return dataset_parts(_load(self.config, key))

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        what = self.config.path if self.config.split is None else f"{self.config.path}[{self.config.split}]"
        return dataset_rows(_load(self.config, key), what, self.config, columns, key, part)


def _folder(config: Config, key: str) -> Path:
    folder = expanded(config.path)
    if not is_dir(folder):
        raise UserError(Problem(f"{key}.path", f"{config.path}: no such folder"))
    return folder


def _load(config: Config, key: str) -> Any:
    found = _loaded(_folder(config, key), Source(config).fingerprint(key), key)
    splits = sorted(found) if isinstance(found, dict) else []
    if splits and config.split is None:
        raise UserError(Problem(f"{key}.split", f"{config.path} has several: choose one ({', '.join(splits)})"))
    if splits and config.split not in splits:
        raise UserError(Problem(f"{key}.split", f"unknown split {config.split!r} ({hint(str(config.split), splits)})"))
    if not splits and config.split is not None:
        raise UserError(Problem(f"{key}.split", f"{config.path} has no splits: leave it out"))
    return found[config.split] if splits else found


@lru_cache(maxsize=8)
def _loaded(folder: Path, _content: str, key: str) -> Any:
    """The data set of a folder, opened once a process."""
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever arrow and datasets make of files that are not theirs
        first = first_line(error)
        what = f"{folder}: is not what datasets' save_to_disk writes, or is damaged: {first}"
        raise UserError(Problem(f"{key}.path", what)) from None
