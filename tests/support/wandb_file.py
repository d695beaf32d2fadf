"""What wandb wrote, read back from its own file."""

import json
import struct

BLOCK, HEADER = 32768, 7
WHOLE, LAST = 1, 4


def records(file):
    """The records of a .wandb file: protobuf messages in the blocks of a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while at + HEADER <= len(data):
        room = BLOCK - at % BLOCK
        if room < HEADER:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        at += HEADER
        parts += data[at : at + length]
        at += length
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(found):
    """What was logged: a row each time."""
    logged = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    return [{i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row.item} for row in logged]
