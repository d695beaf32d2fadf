"""torch's elastic agent for the ranks of one machine, which sees every way in which a rank can end or stand still.

torch's own takes a rank that leaves with exit code 0 in mid-run for one that is still there, waits 30 s for the others
of one that failed, and keeps the failures of the last attempt only.
"""

import signal
import sys
import time
from pathlib import Path

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import ProcessFailure

from launcher.distributed import failure, heartbeat, process_tree
from launcher.distributed.signals import ForcedStop
from launcher.distributed.stall_report import StallReport

_SECONDS_TO_FOLLOW = 5.0
"""What the other ranks get to end by themselves after one has failed."""


class LocalAgent(LocalElasticAgent):  # type: ignore[misc]
    """`heartbeats`: the file in which its ranks say where they are (see launcher.distributed.heartbeat)."""

    heartbeats: Path
    _silence: StallReport

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """The state of this machine's ranks: failed as soon as one has ended before all have finished."""
        self._silence.look(heartbeat.read(self.heartbeats))
        dead = self._dead()
        if not dead:
            return super()._monitor_workers(worker_group)
        failures = {worker_group.workers[row].global_rank: self._failure(row) for row in dead}
        if self._remaining_restarts > 0:
            attempt = worker_group.spec.max_restarts - self._remaining_restarts + 1
            what = failure.sentence(failure.first(failures))
            print(f"{what}; starting the ranks again ({attempt} of {worker_group.spec.max_restarts})", file=sys.stderr)
        self._end_the_others()
        return RunResult(state=WorkerState.FAILED, failures=failures)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, str]:
        heartbeat.create(self.heartbeats, worker_group.spec.local_world_size)
        self._silence = StallReport()
        started: dict[int, str] = super()._start_workers(worker_group)
        return started

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """End the ranks; after a second signal at once, also those that are only just being started."""
        if isinstance(sys.exception(), (ForcedStop, KeyboardInterrupt)):
            process_tree.end()
        super()._shutdown(death_sig, timeout)

    def _dead(self) -> list[int]:
        """The ranks of this machine, by their local numbers, that have ended: one that has finished waits for all."""
        context = self._pcontext
        if context is None or context._pc is None:
            return []
        return [row for row, process in enumerate(context._pc.processes) if process.exitcode is not None]

    def _failure(self, row: int) -> ProcessFailure:
        process = self._pcontext._pc.processes[row]
        return ProcessFailure(row, process.pid, process.exitcode, self._pcontext.error_files[row])

    def _end_the_others(self) -> None:
        """Ranks that wait for a dead one hear no signal before it has been noticed."""
        processes = self._pcontext._pc.processes
        for process in processes:
            if process.is_alive():
                process.terminate()
        end = time.monotonic() + _SECONDS_TO_FOLLOW
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
