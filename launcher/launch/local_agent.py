"""torch's elastic agent for the ranks of one machine, which detects every way in which a rank can end or stall.

torch's own agent treats a rank that exits with 0 during training as still running. After the failure of a rank it waits
30 s for the others, and it keeps only the failures of the last attempt.
"""

import logging
import signal
import sys
import time

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import ProcessFailure

from launcher.distributed import failure, hang_log, hangs, heartbeat, rank_end
from launcher.distributed.descendants import kill_descendants
from launcher.distributed.hangs import Hang, RankState
from launcher.distributed.signals import ForcedStop, StopReason
from launcher.distributed.stop_requests import StopMonitor, write_stop_file
from launcher.distributed.watchdog import Watchdog
from launcher.launch import Launch, RendezvousSpec
from launcher.launch.restarts import Recurrence, RestartLog, Why
from launcher.storage.run_dir import RunDir

_SECONDS_TO_FOLLOW = 5.0
"""Seconds for the other ranks to end by themselves after one has failed."""

_log = logging.getLogger(__name__)


class LocalAgent(LocalElasticAgent):  # type: ignore[misc]
    """Elastic agent of one machine.

    `rendezvous`: contains the folder in which its ranks record their positions and their end. `logs`: of its ranks.
    """

    rendezvous: RendezvousSpec
    launch: Launch
    logs: failure.RankLogs
    restarts: RestartLog
    failed: failure.Failure | None = None
    """The failure for which the ranks have just been ended."""
    _failed_step = 0
    _failed_at: float | None = None
    _remaining_restarts: int
    _watchdog: Watchdog
    _limit_before: str

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._recurrence = Recurrence()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Return the state of this machine's ranks: failed as soon as one has ended before all have finished.

        If a rank had a user error, or fails as it did before, the ranks are not started again.
        """
        beats = self.rendezvous.heartbeats
        self.restarts.observe(heartbeat.positions(beats), heartbeat.have_stepped(beats))
        if dead := self._dead():
            failures = {worker_group.workers[row].global_rank: self._failure(row) for row in dead}
            self._judge(failure.first(failures, self.logs))
            self._end_the_others()
            self._refuse_if_mistaken()  # another rank may have reported it while it ended
            return RunResult(state=WorkerState.FAILED, failures=failures)
        if (hang := self._found_hang(worker_group, self._watchdog.check())) is not None:
            return self._end_hung(worker_group, hang)
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            self._judge(failure.first(result.failures, self.logs))
        if any(report.reason is StopReason.REGROUP for report in result.return_values.values()):
            self._start_again("joined", worker_group)
            return RunResult(state=WorkerState.HEALTHY)
        return result

    def _found_hang(self, worker_group: WorkerGroup, states: list[RankState]) -> Hang | None:
        """Return the hang of a rank of this machine; None: there is none. `states`: of ranks of this machine, which
        make no progress."""
        return hangs.explain(states) if states else None

    def _end_hung(self, worker_group: WorkerGroup, hang: Hang) -> RunResult:
        """Record a hang, and end the ranks unless it is only reported. They are killed, since they handle no signal."""
        action = self.launch.watchdog.action
        hang_log.record(self.launch.folder, hang, action)
        if action == "report":
            self._watchdog.report_again_later()
            return RunResult(state=WorkerState.HEALTHY)
        self._judge(failure.hung(hang), may_restart=action == "restart")
        self._end_the_others(seconds=0)
        failures = {worker.global_rank: self._failure(row, "") for row, worker in enumerate(worker_group.workers)}
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _judge(self, first: failure.Failure, may_restart: bool = True) -> None:
        """Decide whether the ranks are started again, and log it. `first`: the failure that caused the others."""
        positions = heartbeat.positions(self.rendezvous.heartbeats)
        self._failed_step = next((position.step for position in positions if position.rank == first.rank), 0)
        if self._renew_restarts():
            self.failed = first
        else:
            self.failed = self._recurrence.judge(first, self._failed_step, self.restarts.stepped)
        if self.failed.recurs or not may_restart:
            self._remaining_restarts = 0
        self._refuse_if_mistaken()
        if self._remaining_restarts > 0:
            what, most = failure.sentence(self.failed), self._worker_group.spec.max_restarts
            _log.warning("%s; starting the ranks again (%d of %d)", what, self._attempt, most)

    def _renew_restarts(self) -> bool:
        """Adjust the restarts that are left, at each failure of a rank or loss of a node.

        They count from 0 again after some time without a failure. If smaller micro-batches may fit, the next restart is
        extra. Returns whether that is so.
        """
        now, window, smaller = time.monotonic(), self.launch.restart_window, self._limit() != self._limit_before
        if smaller:
            self._worker_group.spec.max_restarts += 1
            self._remaining_restarts += 1
        if window is not None and self._failed_at is not None and now - self._failed_at > window:
            self._remaining_restarts = self._worker_group.spec.max_restarts
        self._failed_at = now
        return smaller

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
        positions = heartbeat.positions(self.rendezvous.heartbeats)
        step = self._failed_step if self.failed else max((position.step for position in positions), default=0)
        self.restarts.restart(why, self.failed, step, self._attempt - (why != "joined"))
        super()._restart_workers(worker_group)

    def _refused(self) -> bool:
        return bool(rank_end.problems(rank_end.read(self.rendezvous.folder)))

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, str]:
        heartbeat.create(self.rendezvous.heartbeats, worker_group.spec.local_world_size)
        self.failed, self.logs = None, failure.RankLogs.now(self.logs.folder)
        self._watchdog = self.launch.watch(self.rendezvous)
        self._limit_before = self._limit()
        self.restarts.begin()
        if StopMonitor(self.rendezvous.stop_file).requested() is StopReason.REGROUP:
            self.rendezvous.stop_file.unlink()
        started: dict[int, str] = super()._start_workers(worker_group)
        return started

    def _limit(self) -> str:
        """Return the recorded limit of micro-batches, which a rank that runs out of memory lowers; empty: none."""
        try:
            return RunDir(self.logs.folder.parent).token_limit.read_text(encoding="utf-8")
        except OSError:
            return ""

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

    def _failure(self, row: int, error_file: str | None = None) -> ProcessFailure:
        """Return the failure of a rank whose process has ended. `error_file`: None: its own, unless it was killed while
        it wrote that file; empty: none."""
        process = self._pcontext._pc.processes[row]
        file = self._pcontext.error_files[row] if error_file is None else error_file
        try:
            return ProcessFailure(row, process.pid, process.exitcode, file)
        except ValueError:
            return ProcessFailure(row, process.pid, process.exitcode, "")

    def _end_the_others(self, seconds: float = _SECONDS_TO_FOLLOW) -> None:
        """End all ranks. Ranks that wait for a dead one handle no signal, so that they are killed after some
        seconds."""
        processes = self._pcontext._pc.processes
        for process in processes:
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
