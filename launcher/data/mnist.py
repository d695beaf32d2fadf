"""MNIST, and other datasets in IDX files of the same names (Fashion-MNIST, KMNIST)."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from launcher import data
from launcher.config.atomic_files import expanded, is_file
from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._files import file_hash, fingerprint_of, row_ranges
from launcher.data._source import check_fixed_columns, fixed_row

_MAGIC = {"images": 2051, "labels": 2049}
_PREFIX = {"train": "train", "test": "t10k"}
_DIMENSIONS = {"images": 3, "labels": 1}
"""Number of sizes in the header of a file, after its magic number."""


class Config(SourceConfig):
    """Images in MNIST's own files."""

    kind: Literal["mnist"] = "mnist"
    path: str
    """Folder of the four files, compressed or not."""
    split: Literal["train", "test"] = "train"
    """Split to read."""

    @property
    def reads_local_files(self) -> bool:
        return True


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        return fingerprint_of(file_hash(_file(self.config, what, key)) for what in _MAGIC)

    def parts(self, key: str) -> list[Part]:
        """Divide the images into ranges. Raises UserError if images and labels differ in number."""
        images, labels = (_file(self.config, what, key) for what in _MAGIC)
        count, height, width = _sizes(images, "images")
        (named,) = _sizes(labels, "labels")
        if count != named:
            raise UserError(f"{images}: has {count:,} images, {labels} {named:,} labels: get both again")
        return row_ranges(count, max(1, height * width), (str(images), str(labels)))

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        check_fixed_columns(self.config, columns, ("image", "label"), key)
        images, labels = (_values(Path(file), what, part) for file, what in zip(part.files, _MAGIC, strict=True))
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), part.start):
            row = {"image": image[..., None], "label": label}
            yield fixed_row(row, columns, f"{part.files[0]} image {number}")


def _file(config: Config, what: str, key: str) -> Path:
    """Return the file of images or labels under one of its usual names. Raises UserError if there is none."""
    folder, numbers = expanded(config.path), _DIMENSIONS[what]
    stem = f"{_PREFIX[config.split]}-{what}"
    names = [f"{stem}{dot}idx{numbers}-ubyte{end}" for dot, end in product("-.", ("", ".gz"))]
    found = next((folder / name for name in names if is_file(folder / name)), None)
    if found is None:
        raise UserError(Problem(f"{key}.path", f"{config.path}: none of these files is there: {', '.join(names)}"))
    return found


def _sizes(file: Path, what: str) -> tuple[int, ...]:
    """Return the sizes in the header of a file: the number of items, and for images their height and width.

    Raises UserError if the file holds something else.
    """
    magic, *sizes = np.frombuffer(_read(file, 0, 4 + 4 * _DIMENSIONS[what]), ">u4").tolist()
    if magic != _MAGIC[what]:
        raise UserError(f"{file}: holds no {what}: its magic number is {magic}, not {_MAGIC[what]}")
    return tuple(sizes)


def _values(file: Path, what: str, part: Part) -> NDArray[np.uint8]:
    """Read the images or labels of a part, shape (items, ...). Raises UserError if the file is truncated."""
    _, *shape = _sizes(file, what)
    each, count = int(np.prod(shape, dtype=np.int64)), (part.stop or 0) - part.start
    content = _read(file, 4 + 4 * _DIMENSIONS[what] + part.start * each, count * each)
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


def _read(file: Path, start: int, size: int) -> bytes:
    """Read `size` bytes. Raises UserError if there are fewer, or if the compressed file is damaged."""
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            stream.seek(start)
            content = stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file}: cut off or damaged ({error}): get it again") from None
    if len(content) < size:
        raise UserError(f"{file}: is cut off: {start + len(content):,} bytes of {start + size:,} or more: get it again")
    return content
