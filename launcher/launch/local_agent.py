"""torch's elastic agent for the ranks of one machine, which detects every way in which a rank can end or stall.

torch's own agent treats a rank that exits with 0 during training as still running. After the failure of a rank it waits
30 s for the others, and it keeps only the failures of the last attempt.
"""

import logging
import signal
import sys
import time
from collections.abc import Mapping

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import ProcessFailure

from launcher.distributed import failure, heartbeat, rank_end
from launcher.distributed.descendants import kill_descendants
from launcher.distributed.heartbeat import StallReport
from launcher.distributed.signals import ForcedStop, StopReason
from launcher.distributed.stop_requests import StopMonitor, write_stop_file
from launcher.launch import RendezvousSpec
from launcher.launch.restarts import Recurrence, RestartLog, Why

_SECONDS_TO_FOLLOW = 5.0
"""Seconds for the other ranks to end by themselves after one has failed."""

_log = logging.getLogger(__name__)


class LocalAgent(LocalElasticAgent):  # type: ignore[misc]
    """Elastic agent of one machine.

    `rendezvous`: contains the folder in which its ranks record their positions and their end. `logs`: of its ranks.
    `window`: seconds without a failure after which restarts count from 0 again; None: they count for the whole start.
    """

    rendezvous: RendezvousSpec
    logs: failure.RankLogs
    restarts: RestartLog
    window: float | None = None
    failed: failure.Failure | None = None
    """The failure for which the ranks have just been ended."""
    _failed_step = 0
    _failed_at: float | None = None

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._recurrence = Recurrence()
        self._stalls = StallReport()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Return the state of this machine's ranks: failed as soon as one has ended before all have finished.

        If a rank had a user error, or fails as it did before, the ranks are not started again.
        """
        positions = heartbeat.read(self.rendezvous.heartbeats)
        self._stalls.update(positions)
        self.restarts.observe(positions, heartbeat.have_stepped(self.rendezvous.heartbeats))
        dead = self._dead()
        if not dead:
            result: RunResult = super()._monitor_workers(worker_group)
            if result.is_failed():
                self._judge(result.failures)
            if any(report.reason is StopReason.REGROUP for report in result.return_values.values()):
                self._start_again("joined", worker_group)
                return RunResult(state=WorkerState.HEALTHY)
            return result
        failures = {worker_group.workers[row].global_rank: self._failure(row) for row in dead}
        self._judge(failures)
        self._end_the_others()
        self._refuse_if_mistaken()  # another rank may have reported it while it ended
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _judge(self, failures: Mapping[int, ProcessFailure]) -> None:
        """Decide whether the ranks are started again after these failures, and log it."""
        first, now = failure.first(failures, self.logs), time.monotonic()
        positions = heartbeat.read(self.rendezvous.heartbeats)
        self._failed_step = next((position.step for position in positions if position.rank == first.rank), 0)
        self.failed = self._recurrence.judge(first, self._failed_step, self.restarts.stepped)
        most = self._worker_group.spec.max_restarts
        if self.window is not None and self._failed_at is not None and now - self._failed_at > self.window:
            self._remaining_restarts = most
        self._failed_at = now
        if self.failed.recurs:
            self._remaining_restarts = 0
        self._refuse_if_mistaken()
        if self._remaining_restarts > 0:
            what = failure.sentence(self.failed)
            _log.warning("%s; starting the ranks again (%d of %d)", what, self._attempt, most)

    @property
    def _attempt(self) -> int:
        """Number of the next restart."""
        return int(self._worker_group.spec.max_restarts - self._remaining_restarts + 1)

    def _refuse_if_mistaken(self) -> None:
        """Leave no restart if a rank had a user error."""
        if self._refused():
            self._remaining_restarts = 0

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        """Start the ranks again after a failure or the loss of a node.

        If another node waits to join, the ranks are only asked to leave. All nodes agree on the step, whichever agent
        has seen the new node first, and the save may take as long as it does.
        """
        if self.failed is not None or worker_group.state is not WorkerState.HEALTHY:
            self._start_again("failed" if self.failed is not None else "node", worker_group)
        elif StopMonitor(self.rendezvous.stop_file).requested() is StopReason.NONE:
            write_stop_file(self.rendezvous.stop_file, StopReason.REGROUP)

    def _start_again(self, why: Why, worker_group: WorkerGroup) -> None:
        positions = heartbeat.read(self.rendezvous.heartbeats)
        step = self._failed_step if self.failed else max((position.step for position in positions), default=0)
        self.restarts.restart(why, self.failed, step, self._attempt - (why != "joined"))
        super()._restart_workers(worker_group)

    def _refused(self) -> bool:
        return bool(rank_end.problems(rank_end.read(self.rendezvous.folder)))

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, str]:
        heartbeat.create(self.rendezvous.heartbeats, worker_group.spec.local_world_size)
        self._stalls, self.logs = StallReport(), failure.RankLogs.now(self.logs.folder)
        self.failed = None
        self.restarts.begin()
        if StopMonitor(self.rendezvous.stop_file).requested() is StopReason.REGROUP:
            self.rendezvous.stop_file.unlink()
        started: dict[int, str] = super()._start_workers(worker_group)
        return started

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """End the ranks. After a second signal they are killed at once, including ranks that are only being started."""
        if isinstance(sys.exception(), (ForcedStop, KeyboardInterrupt)):
            kill_descendants()
        super()._shutdown(death_sig, timeout)

    def _dead(self) -> list[int]:
        """Return the local numbers of ranks whose process has ended. A rank that has finished waits for all others."""
        context = self._pcontext
        if context is None or context._pc is None:
            return []
        return [row for row, process in enumerate(context._pc.processes) if process.exitcode is not None]

    def _failure(self, row: int) -> ProcessFailure:
        process = self._pcontext._pc.processes[row]
        return ProcessFailure(row, process.pid, process.exitcode, self._pcontext.error_files[row])

    def _end_the_others(self) -> None:
        """End all ranks. Ranks that wait for a dead one handle no signal, so that they are killed after some
        seconds."""
        processes = self._pcontext._pc.processes
        for process in processes:
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + _SECONDS_TO_FOLLOW
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
