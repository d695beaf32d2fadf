"""A child process that reports how the GPUs of this machine are connected, as JSON on standard output."""

import json
import os
from dataclasses import asdict

from launcher.health import gpu_topology
from launcher.plan import nvml


def main(topic: str) -> None:
    """Print a report. `topic`: connections or nccl. Output of libraries goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    text = json.dumps(asdict(gpu_topology.make(nvml.installed()))) if topic == "connections" else _nccl()
    with open(answer, "w", encoding="utf-8") as out:  # noqa: PTH123
        out.write(text)


def _nccl() -> str:
    from torch.cuda import nccl

    return ".".join(str(part) for part in nccl.version())
