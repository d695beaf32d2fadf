"""What an agent that starts ranks is given, and what it returns."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.distributed import failure
from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.signals import Reason

_JOIN = 120
"""Seconds in which the nodes of an attempt come together; one held in reserve waits for as long as the run lasts."""


@dataclass(frozen=True)
class RendezvousSpec:
    """Where the agents of a start meet. `folder`: of this machine and this start alone, with the stop file; `nodes`:
    the least and the most; `index`: of this node; `host`, `port`: of the store that the first one serves (0: a file in
    the folder, for one machine); `name`: of this node; `together`: the folder in which nodes say how they ended;
    `reserve`: how many nodes there are beyond the most; `launcher`: the process that the ranks are started for."""

    folder: Path
    nodes: tuple[int, int] = (1, 1)
    index: int = 0
    host: str = LOOPBACK
    port: int = 0
    name: str = LOOPBACK
    together: Path = Path()
    reserve: int = 0
    launcher: int = field(default_factory=os.getpid)

    @property
    def heartbeats(self) -> Path:
        """The file in which ranks say where they are."""
        return self.folder / "heartbeats"

    @property
    def rendezvous(self) -> dict[str, Any]:
        """The options of torch's rendezvous. A node counts as dead after some seconds without a beat, of which an
        elastic job loses as few as it can; the clocks of the nodes may differ by as much."""
        if not self.port:
            return {"store_type": "file"}
        held = self.nodes[0] < self.nodes[1] or self.reserve > 0
        beats = (1, 5) if held else (2, 15)
        return {
            "is_host": False, "timeout": 900, "last_call_timeout": 3,
            "keep_alive_interval": beats[0], "keep_alive_max_attempt": beats[1],
            "join_timeout": 10**8 if self.reserve else _JOIN,
        }  # fmt: skip


@dataclass(frozen=True)
class RanksEnded:
    """How the ranks of this machine ended: the exit code, why they left early, what rank 0 found out (`told`), what the
    user got wrong (`problems`), and which rank failed first. `closed`: they were not needed, the run is over."""

    code: int
    reason: Reason = Reason.NONE
    told: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: failure.Failure | None = None
    closed: bool = False
