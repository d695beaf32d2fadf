"""Files of a preparation in progress: each is whole, or not there."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from launcher.config.atomic_files import flush


def aside_name(file: Path) -> Path:
    """Return a name to write a file under first. No other process uses it, on any machine."""
    return file.with_name(f".{uuid.uuid4().hex}.{file.name}")


@contextmanager
def write_aside(file: Path) -> Iterator[Path]:
    """Yield a path to write to, which gets the name of the file when the block ends without error. The file is flushed
    to the disk before. If the block writes nothing, there is no file."""
    aside = aside_name(file)
    try:
        yield aside
        if aside.exists():
            flush(aside)
            aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def open_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of an Arrow stream file, memory-mapped. Raises OSError if it is gone."""
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        yield from stream


def is_complete(file: Path) -> bool:
    """Whether a JSON file exists and is whole: a power failure may empty a file that was not flushed."""
    try:
        return isinstance(json.loads(file.read_bytes()), dict)
    except (OSError, ValueError):
        return False
