"""torch's elastic agent of one node among several, which also watches the other nodes.

A machine without power closes no connection, and a rank that fails under NCCL informs no other rank. So the ranks of
other nodes would wait until the group's timeout. The agents detect both within seconds.
"""

import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.rendezvous import RendezvousError

from launcher.distributed import heartbeat, node_rendezvous
from launcher.distributed.heartbeat import Stage
from launcher.distributed.node_rendezvous import NodeOutcome
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
    _last_check = 0.0
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
        positions = heartbeat.read(self.rendezvous.heartbeats)
        leaves = any(position.stage is Stage.LEAVING for position in positions)
        if leaves and not failed and self._last_check - self._all_heard < _SAVE_SECONDS:
            return result
        if failed or self._remaining_restarts == 0:
            raise RendezvousError("a node has failed" if failed else "a node is not heard of any more")
        if self._pcontext is not None:
            self._pcontext.close(signal.SIGKILL)  # the ranks wait for dead ones, and handle no signal meanwhile
        return RunResult(state=WorkerState.UNHEALTHY)


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
