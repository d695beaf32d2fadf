"""The account of this process in the ledger of a run: of a command that starts ranks, or of rank 0."""

import functools
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from launcher.config.strict_json import DamagedFile
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.storage import goodput, ledger
from launcher.storage.lease import Lease
from launcher.storage.ledger import OF_STEPS, LedgerLine, Purpose
from launcher.storage.run_dir import RunDir

SHORTEST, LONGEST = 0.5, 60.0
"""Seconds between two lines. They become longer in a long start: a thousandth of its age."""
_PURPOSES: dict[Stage, Purpose] = {
    Stage.STARTING: "start", Stage.LOADING: "data", Stage.AGREEING: "communicate", Stage.REDUCING: "communicate",
    Stage.EVALUATING: "evaluate", Stage.SCORING: "evaluate", Stage.SAVING: "save", Stage.LEAVING: "save",
}  # fmt: skip
"""Purposes of the stages. All others compute; communication that overlaps with them is not seen apart."""


def record_command(folder: RunDir, prepare: float = 0.0) -> None:
    """Record the seconds of this process, which starts ranks, since it began. `prepare`: how many of them went into
    planning and preparing. On a full disk, nothing is recorded."""
    age = _process_age()
    seconds: dict[Purpose, float] = {"start": max(0.0, age - prepare), "prepare": prepare}
    with suppress(OSError):
        line = LedgerLine(process=_process_name(os.getpid()), writer="command", time=time.time(), seconds=seconds)
        ledger.append(folder, line)


class RankLedger:
    """The account of rank 0, from the beginning of its process. Its stages come from its heartbeat.

    `compiles`: whether the model is compiled. `lease`: right to write into the run folder. What cannot be written or
    read, as on a full disk, is left out.
    """

    def __init__(self, folder: RunDir, heartbeat: Heartbeat, compiles: bool = False, lease: Lease | None = None):
        self._folder, self._heartbeat, self._compiles, self._lease = folder, heartbeat, compiles, lease
        self._before_beats = max(0.0, _process_age() - _accounted(folder) - sum(heartbeat.seconds_so_far.values()))
        self._compiled_before, self._saves = 0.0, 0
        self._taken: int | None = None
        self._earlier_total = self._earlier_counted = 0.0
        self._lock, self._closed = threading.Lock(), threading.Event()

    def resume(self, step: int) -> None:
        """Record that training begins after this number of steps."""
        if self._taken is None:
            self._compiled_before = self._compiled()
        self._taken = step
        self.write()
        with suppress(OSError, DamagedFile):
            run, own = goodput.account(ledger.read(self._folder)), self._seconds()
            if run is not None:
                self._earlier_total = run.total - sum(own.values())
                self._earlier_counted = run.goodput * run.total - _counted(own)

    def saved(self) -> None:
        """Record that a checkpoint was saved."""
        self._saves += 1
        self.write()

    def goodput(self) -> float:
        """Return the share of the run's seconds so far that went into steps that count."""
        own = self._seconds()
        total = self._earlier_total + sum(own.values())
        return (self._earlier_counted + _counted(own)) / total if total > 0 else 0.0

    def write(self) -> None:
        """Append a line, unless another start has taken over the run folder."""
        if self._lease is not None and self._lease.lost:
            return
        with self._lock, suppress(OSError):
            name, seconds = _process_name(os.getpid()), self._seconds()
            line = LedgerLine(
                process=name, writer="rank", time=time.time(), step=self._step(), saves=self._saves, seconds=seconds
            )
            ledger.append(self._folder, line)

    @contextmanager
    def kept(self) -> Iterator["RankLedger"]:
        """Append lines from another thread inside the context, and a last one at its end."""
        thread = threading.Thread(target=self._keep, name="ledger", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._closed.set()
            thread.join()
            self.write()

    def _keep(self) -> None:
        age = 0.0
        while not self._closed.wait(min(LONGEST, max(SHORTEST, age / 1000))):
            self.write()
            age = sum(self._seconds().values())

    def _step(self) -> int | None:
        """Return the number of steps that are taken; None: training has not begun."""
        position = self._heartbeat.position
        if self._taken is not None and position.step > 0:
            self._taken = position.taken
        return self._taken

    def _seconds(self) -> dict[Purpose, float]:
        """Return the seconds of this process by purpose.

        Compilation happens inside of other stages: before the first step, it is taken from `start`, and afterwards from
        `compute` and `evaluate`.
        """
        seconds = dict[Purpose, float]({"start": self._before_beats})
        for stage, of_stage in self._heartbeat.seconds_so_far.items():
            purpose = _PURPOSES.get(stage, "compute")
            seconds[purpose] = seconds.get(purpose, 0.0) + of_stage
        compiled = self._compiled()
        before = compiled if self._taken is None else self._compiled_before
        _move(seconds, before, ("start",))
        _move(seconds, compiled - before, ("compute", "evaluate"))
        return seconds

    def _compiled(self) -> float:
        """Return the seconds of torch.compile in this process so far."""
        if not self._compiles:
            return 0.0
        from torch._dynamo.utils import calculate_time_spent

        return float(calculate_time_spent()["total_wall_time"])


def _move(seconds: dict[Purpose, float], amount: float, sources: Sequence[Purpose]) -> None:
    """Move at most this amount from the sources to `compile`."""
    for source in sources:
        moved = min(amount, seconds.get(source, 0.0))
        if moved > 0:
            seconds[source] -= moved
            seconds["compile"] = seconds.get("compile", 0.0) + moved
            amount -= moved


def _counted(seconds: dict[Purpose, float]) -> float:
    return sum(seconds.get(purpose, 0.0) for purpose in OF_STEPS)


def _accounted(folder: RunDir) -> float:
    """Return the seconds that this process has recorded as a command, as when rank 0 has prepared the run itself."""
    with suppress(OSError, DamagedFile):
        own = [line for line in ledger.read(folder)[-1:] if line.process == _process_name(os.getpid())]
        return sum(line.age for line in own)
    return 0.0


def _process_age() -> float:
    """Return the seconds since this process began, which on Linux do not depend on the clock being right."""
    try:
        since_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, AttributeError):  # no Linux
        return max(0.0, time.time() - float(psutil.Process().create_time()))


@functools.cache
def _process_name(pid: int) -> str:
    """Return a name of this process that no other has, on no machine. `pid`: differs between forks of a process."""
    return f"{pid}-{secrets.token_hex(6)}"
