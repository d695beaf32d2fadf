"""Files of a preparation in progress. Each is complete, or does not exist."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa


def open_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of an Arrow stream file, memory-mapped. Raises OSError if the file does not exist."""
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        yield from stream


def is_complete(file: Path) -> bool:
    """Return whether a JSON file exists and is complete. A power failure may empty a file that was not flushed."""
    try:
        return isinstance(json.loads(file.read_bytes()), dict)
    except (OSError, ValueError):
        return False
