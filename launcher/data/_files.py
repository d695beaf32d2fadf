"""Files of a source: matched by globs, hashed, and divided into parts."""

import glob
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import xxhash

from launcher import data
from launcher.config import paths
from launcher.config.atomic_files import exists, expanded, write
from launcher.config.errors import Problem, UserError
from launcher.data import Part
from launcher.data._source import FilesConfig

PART = 32 * 2**20
"""Approximate bytes of a part."""

_MTIME_RESOLUTION = 2.0
"""Seconds within which a file may change twice without a new modification time, on coarse file systems."""


def files(config: FilesConfig, key: str) -> list[Path]:
    """Return every file of `path`, sorted and without repeats. Raises UserError if a pattern matches no file."""
    return _matched(config.path, Path.is_file, "file", key)


def folders(config: FilesConfig, key: str) -> list[Path]:
    """Return every folder of `path`, sorted, so that a folder comes before the folders inside it.

    Raises UserError if a pattern matches no folder.
    """
    return _matched(config.path, Path.is_dir, "folder", key)


def _matched(path: str | list[str], wanted: Callable[[Path], bool], what: str, key: str) -> list[Path]:
    found: set[Path] = set()
    for pattern in [path] if isinstance(path, str) else path:
        matches = [match for match in _matches(expanded(pattern), wanted) if wanted(match)]
        if not matches:
            raise UserError(Problem(f"{key}.path", f"{pattern}: no such {what}"))
        found.update(matches)
    return sorted(found)


def _matches(pattern: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Expand a path or glob. An existing path stands for itself. Leading folders that exist are taken literally,
    brackets and stars included; the rest is the glob."""
    if exists(pattern) and wanted(pattern):
        return [pattern]
    literal = next((folder for folder in pattern.parents if folder.parts and exists(folder)), Path())
    rest = pattern.relative_to(literal)
    found = glob.glob(str(Path(glob.escape(str(literal))) / rest), recursive=True)  # noqa: PTH207
    return [Path(name) for name in found]


class FilesSource(data.Source):
    """A source of files whose names have no effect."""

    config: FilesConfig

    def fingerprint(self, key: str) -> str:
        return fingerprint_files(self.config, key)

    def local_files(self, key: str) -> Sequence[Path]:
        return files(self.config, key)


def fingerprint_files(config: FilesConfig, key: str) -> str:
    """Hash the bytes of all files of `path`; their names have no effect."""
    return fingerprint_of((path.stat().st_size, file_hash(path)) for path in files(config, key))


def fingerprint_folder(folder: Path) -> str:
    """Hash the bytes and the relative names of all files below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint_of((str(path.relative_to(folder)), file_hash(path)) for path in found)


def fingerprint_of(values: Iterable[object]) -> str:
    """Hash fingerprints, sizes and names, in their order."""
    return xxhash.xxh3_128_hexdigest(json.dumps(list(values)).encode())


def file_hash(path: Path) -> str:
    """Return the hash of the bytes of a file. Raises UserError if the file cannot be read.

    The cache keeps the hash until the file changes, so that another plan does not read a large corpus again.
    """
    try:
        return _file_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _file_hash(path: Path) -> str:
    begin, identity = time.time(), _identity(path)
    entry = paths.cache() / paths.FINGERPRINTS / f"{xxhash.xxh3_128_hexdigest(str(path.absolute()).encode())}.json"
    if cached := _cached_hash(entry, identity):
        return cached
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    digest = state.hexdigest()
    if path.stat().st_mtime < begin - _MTIME_RESOLUTION and _identity(path) == identity:
        _cache_hash(entry, identity, digest)
    return digest


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _cached_hash(entry: Path, identity: str) -> str | None:
    """Return the cached hash of a file with this identity; None: it is missing or damaged."""
    try:
        content = json.loads(entry.read_text(encoding="utf-8"))
        valid = content["check"] == _checksum(identity, content["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(content["hash"]) if valid else None


def _cache_hash(entry: Path, identity: str, digest: str) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write(
            entry, json.dumps({"file": identity, "hash": digest, "check": _checksum(identity, digest)}), flushed=False
        )
    except (OSError, UnicodeEncodeError):  # a cache that cannot be written costs time only
        return


def _checksum(identity: str, digest: str) -> str:
    return xxhash.xxh3_128_hexdigest(f"{identity} {digest}".encode())


def group_files(files: Iterable[tuple[Path, int]], split: Callable[[Path], Sequence[Part]] | None = None) -> list[Part]:
    """Divide files into parts, in their order. Small neighbours share a part; `split` divides a file that is larger
    than a part. `files`: each with its size in bytes."""
    parts: list[Part] = []
    group: list[str] = []
    group_size = 0

    def close() -> None:
        nonlocal group, group_size
        if group:
            parts.append(Part(tuple(group), size=group_size))
        group, group_size = [], 0

    for file, size in files:
        if group_size + size > PART:
            close()
        if size > PART and split:
            parts += split(file)
        else:
            group.append(str(file))
            group_size += size
    close()
    return parts


def row_ranges(rows: int, row_bytes: int, files: tuple[str, ...] = ()) -> list[Part]:
    """Divide a table of so many rows, of some `row_bytes` bytes each, into ranges of rows."""
    step = max(PART // row_bytes, 1)
    ranges = [(start, min(start + step, rows)) for start in range(0, max(rows, 1), step)]
    return [Part(files, start, stop, (stop - start) * row_bytes) for start, stop in ranges]
