"""torch's elastic agent of one node among several, which also watches the other nodes.

A machine without power closes no connection, and a rank that fails under NCCL informs no other rank. So the ranks of
other nodes would wait until the group's timeout. The agents detect both within seconds.
"""

import json
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.rendezvous import RendezvousError

from launcher.config.paths import message_file, node_message
from launcher.distributed import hangs, heartbeat, node_rendezvous
from launcher.distributed.hangs import Hang, RankState
from launcher.distributed.heartbeat import Stage
from launcher.distributed.node_rendezvous import NodeOutcome
from launcher.distributed.rendezvous import MessageFolder
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor
from launcher.launch.local_agent import LocalAgent

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous import RendezvousHandler

_SAVE_SECONDS = 300.0
"""Seconds for ranks that save and leave while another node is not heard of: its agent may have been killed, so that its
ranks live on and leave too."""
_LEAVE_SECONDS = 30.0
"""Seconds for ranks to leave after a stop request. Then a rendezvous that still waits for other nodes is closed."""


class NodeAgent(LocalAgent):
    """Elastic agent of one node. When its own ranks make no progress, it posts their states for the other nodes."""

    _last_check = 0.0
    _posted: Path | None = None
    _all_heard = 0.0

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Return the state of this node's ranks: unhealthy as soon as another node is gone.

        Raises RendezvousError if a node has failed, or if no restart is left.
        """
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state is not WorkerState.HEALTHY or time.monotonic() - self._last_check < 1:
            return result
        self._last_check = time.monotonic()
        outcomes = node_rendezvous.posted_outcomes(self.rendezvous.start_folder)
        failed = any(map(has_failed, outcomes))
        alive = _alive_nodes(worker_group.spec.rdzv_handler)
        if not failed and (alive is None or alive + len(outcomes) >= worker_group.group_world_size):
            self._all_heard = self._last_check
            return result
        positions = heartbeat.positions(self.rendezvous.heartbeats)
        leaves = any(position.stage is Stage.LEAVING for position in positions)
        if leaves and not failed and self._last_check - self._all_heard < _SAVE_SECONDS:
            return result
        if failed:
            raise RendezvousError("a node has failed")
        self._renew_restarts()
        if self._remaining_restarts == 0:
            raise RendezvousError("a node is not heard of any more")
        if self._pcontext is not None:
            self._pcontext.close(signal.SIGKILL)  # the ranks wait for dead ones, and handle no signal meanwhile
        return RunResult(state=WorkerState.UNHEALTHY)

    def _found_hang(self, worker_group: WorkerGroup, states: list[RankState]) -> Hang | None:
        """Return the hang of a rank of this node as soon as the ranks of all nodes make no progress.

        All nodes come to the same result from the same states, and the node of the rank that hangs acts.
        """
        folder, attempt = self.rendezvous.start_folder, worker_group.master_port
        name = node_message(f"hang-{attempt}", self.rendezvous.index)
        with suppress(OSError):  # a full disk, or one that is away: tried again
            if not states and self._posted is not None:
                self._posted.unlink(missing_ok=True)
                self._posted = None
            if states and self._posted is None:
                MessageFolder(folder).post(name, {"ranks": [state.as_json() for state in states]})
                self._posted = folder / message_file(name)
        if not states:
            return None
        found = list[RankState]()
        for file in folder.glob(message_file(node_message(f"hang-{attempt}", "*"))):
            with suppress(OSError, ValueError):
                message = json.loads(file.read_text(encoding="utf-8"))
                found += [RankState.of_json(state) for state in message["ranks"]]
        if len(found) < worker_group.workers[0].world_size:
            return None
        hang = hangs.explain(found)
        return hang if hang.rank in {state.rank for state in states} else None


def close_after_stop(rendezvous: "RendezvousHandler", stop: StopMonitor, ended: threading.Event) -> None:
    """Close the rendezvous if an agent still waits there some time after a stop request.

    This happens if too few nodes ever join, or if this node is a reserve. `ended`: set when the agent has ended.
    """
    while not ended.wait(1):
        if stop.requested() > StopReason.REGROUP:
            if not ended.wait(_LEAVE_SECONDS):
                with suppress(RendezvousError):
                    rendezvous.set_closed()
            return


def has_failed(outcome: NodeOutcome) -> bool:
    """Return whether ranks of a node failed or had a user error. The ranks of other nodes would wait for them."""
    return outcome["failed"] is not None or bool(outcome["problems"])


def _alive_nodes(rendezvous: "RendezvousHandler") -> int | None:
    """Return the number of nodes of this round that are alive; None: this version of torch does not show it."""
    try:
        state = rendezvous._state_holder.state
        return len(state.participants) if state.complete else None
    except AttributeError:
        return None
