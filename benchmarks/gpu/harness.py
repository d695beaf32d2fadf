"""Checks, each in a process of its own with a time limit, and their results as JSON lines."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Figures = dict[str, object]
Status = Literal["passed", "failed", "skipped"]
REPOSITORY = Path(__file__).resolve().parents[2]
_REHEARSAL_FACTOR = 8
"""Factor on the time limits in a rehearsal, because two CPU cores are slower than an accelerator."""


class Mismatch(Exception):
    """A result is wrong. `figures`: the measured values."""

    def __init__(self, what: str, figures: Figures | None = None):
        super().__init__(what)
        self.figures = figures or {}


class Unavailable(Exception):
    """The machine lacks something that a check needs."""


@dataclass(frozen=True)
class Machine:
    """The device to check. `kind`: cuda, xpu, ..., or cpu in a rehearsal. `folder`: an empty working directory, which
    all checks share, so that data is prepared once."""

    kind: str
    folder: Path

    @property
    def rehearses(self) -> bool:
        return self.kind == "cpu"

    def require_accelerator(self) -> None:
        """Raise Unavailable in a rehearsal."""
        if self.rehearses:
            raise Unavailable("no accelerator")


@dataclass(frozen=True)
class Check:
    """A check. `seconds`: its time limit on an accelerator. `run`: returns figures; raises Mismatch or Unavailable.
    `exact`: whether the result does not depend on speed."""

    name: str
    title: str
    seconds: int
    run: Callable[[Machine], Figures]
    exact: bool = True


@dataclass(frozen=True)
class Result:
    """Result of a check. `reason`: why it failed or was skipped. `seconds`: its time."""

    check: str
    status: Status
    seconds: float
    reason: str = ""
    figures: Mapping[str, object] = field(default_factory=dict)

    def line(self) -> str:
        """Return the result as a line of JSON."""
        return json.dumps(asdict(self), default=str)


def run_here(check: Check, machine: Machine) -> Result:
    """Run a check in this process. An unexpected error is a failure."""
    begin = time.perf_counter()

    def result(status: Status, reason: str = "", figures: Figures | None = None) -> Result:
        return Result(check.name, status, round(time.perf_counter() - begin, 1), reason, figures or {})

    try:
        return result("passed", figures=check.run(machine))
    except Mismatch as error:
        return result("failed", str(error), error.figures)
    except Unavailable as error:
        return result("skipped", str(error))
    except Exception as error:
        import traceback

        traceback.print_exc()
        return result("failed", f"{type(error).__name__}: {error}")


def run(check: Check, machine: Machine) -> Result:
    """Run a check in a new session of processes, which ends at the time limit. Its output goes to a log file in the
    machine's folder."""
    limit = check.seconds * (_REHEARSAL_FACTOR if machine.rehearses else 1)
    file, log = machine.folder / f"{check.name}.json", machine.folder / f"{check.name}.log"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--here", check.name, "--folder", str(machine.folder)]
    command += ["--rehearse"] if machine.rehearses else []
    begin = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=REPOSITORY, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=limit)
    timed_out = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also what a check has left running
    process.wait()
    if file.exists():
        return Result(**json.loads(file.read_text(encoding="utf-8")))
    seconds = round(time.perf_counter() - begin, 1)
    reason = f"not done after {limit} s" if timed_out else f"ended with code {process.returncode}"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return Result(check.name, "failed", seconds, ": ".join([reason, *last]))
