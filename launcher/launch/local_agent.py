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
from launcher.distributed.signals import ForcedStop
from launcher.distributed.watchdog import Watchdog
from launcher.launch import Launch, RendezvousSpec

_SECONDS_TO_FOLLOW = 5.0
"""Seconds for the other ranks to end by themselves after one has failed."""

_log = logging.getLogger(__name__)


class LocalAgent(LocalElasticAgent):  # type: ignore[misc]
    """Elastic agent of one machine. `rendezvous`: contains the folder in which its ranks record their positions and
    their end. `logs`: of its ranks. `hang`: that ended the ranks of this attempt; None: they did not hang."""

    rendezvous: RendezvousSpec
    launch: Launch
    logs: failure.RankLogs
    hang: Hang | None = None
    _watchdog: Watchdog

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Return the state of this machine's ranks: failed as soon as one has ended before all have finished.

        If a rank had a user error, the ranks are not started again.
        """
        dead = self._dead()
        if not dead and (hang := self._found_hang(worker_group, self._watchdog.check())) is not None:
            return self._end_hung(worker_group, hang)
        result = self._fail(worker_group, dead) if dead else super()._monitor_workers(worker_group)
        if result.is_failed() and self._refused():
            self._remaining_restarts = 0
        return result

    def _fail(self, worker_group: WorkerGroup, dead: list[int]) -> RunResult:
        """End all ranks after the death of some, and return their failures. `dead`: local numbers of the dead ranks."""
        failures = {worker_group.workers[row].global_rank: self._failure(row) for row in dead}
        if not self._refused():
            self._announce_restart(worker_group, failure.first(failures, self.logs))
        self._end_the_others()
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _announce_restart(self, worker_group: WorkerGroup, failed: failure.Failure) -> None:
        if self._remaining_restarts > 0:
            most = worker_group.spec.max_restarts
            attempt, what = most - self._remaining_restarts + 1, failure.sentence(failed)
            _log.warning("%s; starting the ranks again (%d of %d)", what, attempt, most)

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
        if action == "fail":
            self._remaining_restarts = 0
        self._announce_restart(worker_group, failure.hung(hang))
        self.hang = hang
        self._end_the_others(seconds=0)
        failures = {worker.global_rank: self._failure(row, "") for row, worker in enumerate(worker_group.workers)}
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _refused(self) -> bool:
        return bool(rank_end.problems(rank_end.read(self.rendezvous.folder)))

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, str]:
        heartbeat.create(self.rendezvous.heartbeats, worker_group.spec.local_world_size)
        self.hang, self.logs = None, failure.RankLogs.now(self.logs.folder)
        self._watchdog = self.launch.watch(self.rendezvous)
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
