"""Starting the ranks. Each way renders a Launch; one place, launcher.launch.execute, executes it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Launch:
    """The `ranks` of one machine. `argv`: a command that starts them (torchrun, accelerate); empty: an elastic agent in
    this process does. `checkpoint`: the one to evaluate. `steps`: how many to measure. `timeout`: minutes that ranks
    wait for each other."""

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
