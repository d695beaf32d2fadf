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

from launcher.distributed import failure, heartbeat, rank_end
from launcher.distributed.descendants import kill_descendants
from launcher.distributed.heartbeat import StallReport
from launcher.distributed.signals import ForcedStop
from launcher.launch import RendezvousSpec
from launcher.storage.run_dir import RunDir

_SECONDS_TO_FOLLOW = 5.0
"""Seconds for the other ranks to end by themselves after one has failed."""

_log = logging.getLogger(__name__)


class LocalAgent(LocalElasticAgent):  # type: ignore[misc]
    """Elastic agent of one machine. `rendezvous`: contains the folder in which its ranks record their positions and
    their end. `logs`: of its ranks."""

    rendezvous: RendezvousSpec
    logs: failure.RankLogs
    _stalls: StallReport
    _limit_before: str

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Return the state of this machine's ranks: failed as soon as one has ended before all have finished.

        If a rank had a user error, the ranks are not started again.
        """
        self._stalls.update(heartbeat.read(self.rendezvous.heartbeats))
        dead = self._dead()
        result = self._fail(worker_group, dead) if dead else super()._monitor_workers(worker_group)
        if result.is_failed() and self._refused():
            self._remaining_restarts = 0
        return result

    def _fail(self, worker_group: WorkerGroup, dead: list[int]) -> RunResult:
        """End all ranks after the death of some, and return their failures. `dead`: local numbers of the dead ranks."""
        failures = {worker_group.workers[row].global_rank: self._failure(row) for row in dead}
        if self._limit() != self._limit_before:  # smaller micro-batches may fit: this restart is extra
            self._remaining_restarts += 1
            worker_group.spec.max_restarts += 1
        if self._remaining_restarts > 0 and not self._refused():
            most = worker_group.spec.max_restarts
            attempt, what = most - self._remaining_restarts + 1, failure.sentence(failure.first(failures, self.logs))
            _log.warning("%s; starting the ranks again (%d of %d)", what, attempt, most)
        self._end_the_others()
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _refused(self) -> bool:
        return bool(rank_end.problems(rank_end.read(self.rendezvous.folder)))

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, str]:
        heartbeat.create(self.rendezvous.heartbeats, worker_group.spec.local_world_size)
        self._limit_before = self._limit()
        self._stalls, self.logs = StallReport(), failure.RankLogs.now(self.logs.folder)
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
