"""What tests of submitted jobs share: a profile of the lab, a run in it, and what is left of it afterwards."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

import support
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


def profile(nodes: int | str = 2, ranks: int = 2, **slurm: Any) -> str:
    """A cluster profile for the lab: its file."""
    made = {
        "name": "lab", "kind": "slurm", "nodes": nodes, "devices_per_node": ranks, "device": "cpu",
        "memory_per_device": 4, "env": {"OMP_NUM_THREADS": "1"},
        "slurm": {"cpus_per_node": 2, "time": 10, "leave": 20, **slurm},
    }  # fmt: skip
    return support.write(made, "lab.yaml")


class Submitted:
    """A run that was submitted to the lab. `of`: what makes its recipe."""

    def __init__(self, lab: Any, name: str, *options: Any, of: Any = support.small, **changes: Any):
        self.lab, self.name, self.folder = lab, name, RunDir(Path("runs") / name)
        recipe = {"train__precision": "fp64", "checkpoint__every": 5, "train__steps": 12, **changes}
        support.write(of(name, **recipe), f"{name}.yaml")
        with _environment(lab):
            said = support.launcher("submit", f"{name}.yaml", "--cluster", "lab.yaml", *options).stdout
        self.id = re.search(r"job (\d+)", said)[1]  # type: ignore[index]

    def over(self, timeout: float = 180) -> dict[str, str]:
        return dict(self.lab.over(self.id, timeout))

    def at_step(self, step: int, timeout: float = 120) -> None:
        with self.lab._told(self.id):
            support.wait_for(lambda: max(support.steps(self.folder.path), default=0) >= step, timeout)

    def starts(self) -> list[tuple[int, str]]:
        """The number of each start that has begun, and why it ended."""
        told = job_log.read(self.folder)
        ends = {event["start"]: event["why"] for event in told if event["event"] == "ended"}
        return [(event["start"], ends.get(event["start"], "")) for event in told if event["event"] == "started"]

    def log(self) -> str:
        return "".join(file.read_text() for file in sorted(self.folder.logs.glob("job-*.log")))

    def told(self) -> dict[str, Any]:
        """What `launcher status` says of it."""
        with _environment(self.lab):
            return dict(json.loads(support.launcher("status", self.folder.path, "--json").stdout)[0])


class _environment:
    """The lab's Slurm for the commands in between."""

    def __init__(self, lab: Any):
        self._wanted, self._before = lab.env["SLURM_CONF"], os.environ.get("SLURM_CONF")

    def __enter__(self) -> None:
        os.environ["SLURM_CONF"] = self._wanted

    def __exit__(self, *failure: object) -> None:
        os.environ.pop("SLURM_CONF")


def weights(run: str | Path) -> str:
    """A digest of the bytes of the newest checkpoint's tensors."""
    newest = sorted(Path(run, "checkpoints").glob("step-*/COMPLETE"))[-1].parent
    tensors = {name: t for file in newest.glob("*.safetensors") for name, t in load_file(file).items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.tobytes())
    return f"{newest.name} {digest.hexdigest()}"


def slow(seconds: float = 0.25) -> dict[str, Any]:
    """Sinks that take their time, so that a run can be met in the middle."""
    support.plugin("slow", support.SLOW.replace("0.05", str(seconds)))
    return {"sinks": ["jsonl", {"kind": "own.slow"}]}
