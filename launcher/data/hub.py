"""Datasets of the Hugging Face hub, or of a local folder that `datasets.load_dataset` reads."""

import glob
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

from launcher import data
from launcher.config.atomic_files import expanded, is_dir
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.types import HubRepository
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._files import fingerprint_folder
from launcher.data._tables import dataset_parts, dataset_places, dataset_rows

if TYPE_CHECKING:
    import datasets


class Config(SourceConfig):
    """A dataset of the Hugging Face hub, as load_dataset loads it."""

    kind: Literal["hub"] = "hub"
    name: str
    """Name of the dataset."""
    config: str | None = None
    """Name of its configuration."""
    split: str = "train"
    """Split, or a slice of one."""
    revision: str | None = None
    """Branch, tag or commit."""

    @property
    def hub_repository(self) -> HubRepository:
        return HubRepository(self.name, self.revision)


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        folder = expanded(self.config.name)
        if is_dir(folder):
            _check_readable(folder, key)
            return f"{fingerprint_folder(folder)} {self.config.config} {self.config.split}"
        return f"hub {self.config.name} {self.config.config} {self.config.split} {self.config.revision}"

    def parts(self, key: str) -> list[Part]:
        return dataset_parts(_load(self.config, key))

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        return dataset_rows(_load(self.config, key), self._name(), self.config, columns, key, part)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        return dataset_places(self._name(), part)

    def _name(self) -> str:
        return f"{self.config.name}[{self.config.split}]"


def _check_readable(folder: Path, key: str) -> None:
    """Raise UserError if `datasets` would take the path of the folder for a pattern.

    It resolves links in the path first.
    """
    if glob.has_magic(str(folder.resolve())):
        what = f"{folder}: datasets takes one of * ? [ in the path of a folder for a pattern"
        todo = "rename the folder, or name its files as a source of kind jsonl, csv or parquet"
        raise UserError(Problem(f"{key}.name", f"{what} ({todo})"))


def _load(config: Config, key: str) -> "datasets.Dataset":
    folder = expanded(config.name)
    name = str(folder) if is_dir(folder) else config.name
    content = str(Path.cwd()), Source(config).fingerprint(key)
    return _load_cached(name, config.config, config.split, config.revision, key, *content)


@lru_cache(maxsize=8)
def _load_cached(
    name: str, config: str | None, split: str, revision: str | None, key: str, *_content: str
) -> "datasets.Dataset":
    """Load a dataset once per process. Raises UserError if it cannot be loaded.

    `_content`: identifies the content, so that a changed dataset is loaded again.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        what = f"{name} cannot be had: {first_line(error)}"
        todo = f"run `launcher prepare` once where the hub can be reached, or override {key} with local files"
        raise UserError(Problem(f"{key}.name", f"{what} ({todo})")) from None
    except (ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        what = str(error.__cause__ or error) or type(error).__name__
        raise UserError(Problem(key, f"{name}: {shorten(what, 300)}")) from None
