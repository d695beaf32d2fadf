"""Files of a preparation in progress: each is whole, or not there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa


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
