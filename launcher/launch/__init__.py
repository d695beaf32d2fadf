"""Starting the ranks. A plan is rendered as a Launch, the ranks of one machine, which `execute` executes here.

`elastic_agent` starts them in this process, `starter` has torchrun or accelerate start them. On a cluster each machine
runs a `node`, whose `job_outcome` says how the start ended.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Launch:
    """The `ranks` of one machine. `argv`: a Python module that starts them (torchrun, accelerate) and its words; empty:
    an elastic agent in this process does. `checkpoint`: the one to evaluate. `steps`: how many the run has
    (0: not known yet), or how many to measure. `timeout`: minutes that ranks wait for each other."""

    folder: Path
    ranks: int
    device: str
    threads: int
    max_restarts: int = 0
    timeout: float = 30
    job: Literal["train", "evaluate", "measure"] = "train"
    checkpoint: str | int = "latest"
    steps: int = 0
    env: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
