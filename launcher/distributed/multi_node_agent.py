"""torch's elastic agent, watching the other nodes too.

A machine that loses its power closes no connection, and a rank that fails under NCCL tells nobody: the ranks of other
nodes would wait for as long as the group's timeout lets them. The agents hear of it in seconds.
"""

import json
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.rendezvous import RendezvousError

from launcher.distributed.local_agent import LocalAgent
from launcher.distributed.shutdown import Stop
from launcher.distributed.signals import Reason

_GRACE = 30.0
"""Seconds that ranks are given to leave after they were told to, before whoever waits for other nodes is let go."""


class WatchingAgent(LocalAgent):
    """`together`: the folder in which nodes say how they ended."""

    together: Path
    _looked = 0.0

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """The state of this node's ranks; unhealthy as soon as a node is gone that they work with. Raises
        RendezvousError where no restart is left."""
        found: RunResult = super()._monitor_workers(worker_group)
        if found.state is not WorkerState.HEALTHY or time.monotonic() - self._looked < 1:
            return found
        self._looked = time.monotonic()
        finished, failed = _ends(self.together)
        heard = _heard(worker_group.spec.rdzv_handler)
        if not failed and (heard is None or heard + finished >= worker_group.group_world_size):
            return found
        if failed or self._remaining_restarts == 0:
            raise RendezvousError("a node has failed" if failed else "a node is not heard of any more")
        if self._pcontext is not None:
            self._pcontext.close(signal.SIGKILL)  # they wait for the dead, and heed no signal meanwhile
        return RunResult(state=WorkerState.UNHEALTHY)


def let_go(rendezvous: Any, stop: Stop, over: threading.Event) -> None:
    """Close a rendezvous that an agent still waits at some time after it was told to leave: too few nodes may be left
    for ever, or this one is held in reserve. `over`: set when the agent has ended."""
    while not over.wait(1):
        if stop.requested() is not Reason.NONE:
            if not over.wait(_GRACE):
                with suppress(RendezvousError):
                    rendezvous.set_closed()
            return


def _ends(together: Path) -> tuple[int, bool]:
    """How many nodes have ended as they should, and whether one has failed."""
    finished, failed = 0, False
    for file in together.glob("ended-*.json"):
        with suppress(OSError, ValueError):
            how = json.loads(file.read_text(encoding="utf-8"))
            failed = failed or how["failed"] is not None
            finished += how["failed"] is None
    return finished, failed


def _heard(rendezvous: Any) -> int | None:
    """How many nodes of this round are heard of; None where this torch does not say."""
    try:
        state = rendezvous._state_holder.state
        return len(state.participants) if state.complete else None
    except AttributeError:
        return None
