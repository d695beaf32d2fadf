"""The handwritten digits of MNIST, and what else comes in IDX files of the same names (Fashion-MNIST, KMNIST)."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from launcher import data
from launcher.config.atomic_files import expanded, is_file
from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Part, Row, _own_columns, _source
from launcher.data._source import SourceConfig, file_hash, fingerprint_of

_MAGIC = {"images": 2051, "labels": 2049}
_PREFIX = {"train": "train", "test": "t10k"}
_SIDES = {"images": 3, "labels": 1}
"""Numbers that tell the size, after the magic one."""


class Config(SourceConfig):
    """Images in MNIST's own files."""

    kind: Literal["mnist"] = "mnist"
    path: str
    """Folder of the four files, compressed or not."""
    split: Literal["train", "test"] = "train"
    """Split to read."""


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        return fingerprint_of(file_hash(_file(self.config, what, key)) for what in _MAGIC)

    def parts(self, key: str) -> list[Part]:
        """Ranges of the images. Raises UserError for files that do not belong together."""
        images, labels = (_file(self.config, what, key) for what in _MAGIC)
        count, height, width = _sizes(images, "images")
        (named,) = _sizes(labels, "labels")
        if count != named:
            raise UserError(f"{images}: has {count:,} images, {labels} {named:,} labels: get both again")
        each = max(1, height * width)
        step = max(1, _source.PART // each)
        cuts = [(at, min(at + step, count)) for at in range(0, count, step)]
        return [Part((str(images), str(labels)), start, stop, (stop - start) * each) for start, stop in cuts]

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        _own_columns.check(self.config, columns, ("image", "label"), key)
        images, labels = (_values(Path(file), what, part) for file, what in zip(part.files, _MAGIC, strict=True))
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), part.start):
            yield _own_columns.row(
                {"image": image[..., None], "label": label}, columns, f"{part.files[0]} image {number}"
            )


def _file(config: Config, what: str, key: str) -> Path:
    """Of the usual names the one that is there. Raises UserError."""
    folder, numbers = expanded(config.path), _SIDES[what]
    stem = f"{_PREFIX[config.split]}-{what}"
    names = [f"{stem}{dot}idx{numbers}-ubyte{end}" for dot, end in product("-.", ("", ".gz"))]
    found = next((folder / name for name in names if is_file(folder / name)), None)
    if found is None:
        raise UserError(Problem(f"{key}.path", f"{config.path}: none of these files is there: {', '.join(names)}"))
    return found


def _sizes(file: Path, what: str) -> tuple[int, ...]:
    """The numbers in the head of a file: how many, and of images height and width. Raises UserError."""
    magic, *sizes = np.frombuffer(_read(file, 0, 4 + 4 * _SIDES[what]), ">u4").tolist()
    if magic != _MAGIC[what]:
        raise UserError(f"{file}: holds no {what}: its magic number is {magic}, not {_MAGIC[what]}")
    return tuple(sizes)


def _values(file: Path, what: str, part: Part) -> NDArray[np.uint8]:
    """Images or labels of a range, shape (range, ...). Raises UserError."""
    _, *shape = _sizes(file, what)
    each, count = int(np.prod(shape, dtype=np.int64)), (part.stop or 0) - part.start
    found = _read(file, 4 + 4 * _SIDES[what] + part.start * each, count * each)
    return np.frombuffer(found, np.uint8).reshape(count, *shape)


def _read(file: Path, start: int, size: int) -> bytes:
    """So many bytes. Raises UserError where there are fewer, and for a compressed file that is damaged."""
    opened: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as stream:
            stream.seek(start)
            found: bytes = stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file}: cut off or damaged ({error}): get it again") from None
    if len(found) < size:
        raise UserError(f"{file}: is cut off: {start + len(found):,} bytes of {start + size:,} or more: get it again")
    return found
