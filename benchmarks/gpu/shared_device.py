"""One of two ranks that share a device, which the launcher itself refuses: it trains a run folder over gloo, and rank 0
prints its records as JSON. Started by torchrun: `python -m benchmarks.gpu.shared_device RUN DEVICE`."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.gpu.training import train_built
from launcher.build import build
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.prepare import run_setup


def main(folder: str, kind: str) -> None:
    device = torch.device(kind) if kind == "cpu" else torch.device(kind, 0)
    dist.init_process_group("gloo")
    group = ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    run, _ = build(run_setup.load(Path(folder)), group, StopMonitor(), None, workers=0)
    _, records = train_built(run)
    if group.rank == 0:
        print(json.dumps(records), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
