"""Folders written by `save_to_disk` of `datasets`."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher import data
from launcher.config.atomic_files import expanded, is_dir
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError, first_line
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._files import fingerprint_folder
from launcher.data._tables import dataset_parts, dataset_places, dataset_rows

if TYPE_CHECKING:
    import datasets


class Config(SourceConfig):
    """A dataset that save_to_disk saved."""

    kind: Literal["arrow"] = "arrow"
    path: str
    """Folder of the dataset."""
    split: str | None = None
    """Split to read, if the folder holds several."""

    @property
    def reads_local_files(self) -> bool:
        return True


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        return f"{fingerprint_folder(_folder(self.config, key))} {self.config.split}"

    def parts(self, key: str) -> list[Part]:
        return dataset_parts(_load(self.config, key))

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        return dataset_rows(_load(self.config, key), self._name(), self.config, columns, key, part)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        return dataset_places(self._name(), part)

    def _name(self) -> str:
        return self.config.path if self.config.split is None else f"{self.config.path}[{self.config.split}]"


def _folder(config: Config, key: str) -> Path:
    folder = expanded(config.path)
    if not is_dir(folder):
        raise UserError(Problem(f"{key}.path", f"{config.path}: no such folder"))
    return folder


def _load(config: Config, key: str) -> "datasets.Dataset":
    """Load the split of the Config. Raises UserError if the split, or a dataset in the folder, is missing."""
    loaded = _load_cached(_folder(config, key), Source(config).fingerprint(key), key)
    splits = sorted(loaded) if isinstance(loaded, dict) else []
    if splits and config.split is None:
        raise UserError(Problem(f"{key}.split", f"{config.path} has several: choose one ({', '.join(splits)})"))
    if splits and config.split not in splits:
        raise UserError(Problem(f"{key}.split", f"unknown split {config.split!r} ({hint(str(config.split), splits)})"))
    if not splits and config.split is not None:
        raise UserError(Problem(f"{key}.split", f"{config.path} has no splits: leave it out"))
    return loaded[config.split] if splits else loaded


@lru_cache(maxsize=8)
def _load_cached(folder: Path, _content: str, key: str) -> "datasets.Dataset | datasets.DatasetDict":
    """Load a folder once per process. `_content`: its fingerprint, so that a changed folder is loaded again."""
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # arrow and datasets raise many types for files of another format
        what = f"{folder}: is not what datasets' save_to_disk writes, or is damaged: {first_line(error)}"
        raise UserError(Problem(f"{key}.path", what)) from None
