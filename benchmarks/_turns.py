"""Jobs that stay alive and train in turns, a few steps each, so that a start is no part of a measurement.

A job works in a folder of its own. The harness writes the number of the last step that it may take into the file
`allowed`. Each rank with a gate appends a line to `steps-RANK.jsonl` at the end of a step, and sleeps until the next
step is allowed.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

Line = dict[str, float]

_HARNESS = "LAUNCHER_BENCHMARK_HARNESS"
"""Environment variable with the number of the harness's process."""
_ASLEEP, _WATCHING = 0.01, 0.05
"""Seconds between two looks at a file: of a rank that waits for its turn, and of the harness. They run beside the side
that is measured, and so have to cost next to nothing."""


class Gate:
    """A rank's side. `rank`: number in the name of its file of steps."""

    def __init__(self, folder: Path, rank: int):
        self._allowed = folder / "allowed"
        self._steps = (folder / f"steps-{rank}.jsonl").open("a", encoding="utf-8", buffering=1)
        self._known, self._begun = 0, 0.0
        self._harness = int(os.environ[_HARNESS])

    def wait(self, step: int) -> None:
        """Sleep until step `step`, from 1, is allowed."""
        while self._known < step:
            with contextlib.suppress(FileNotFoundError):
                self._known = int(self._allowed.read_text(encoding="utf-8"))
            if self._known < step:
                if not psutil.pid_exists(self._harness):
                    os._exit(1)  # nobody would let this rank go on, or end it
                time.sleep(_ASLEEP)
        self._begun = time.monotonic()

    def record(self, step: int, loss: float, **figures: float) -> None:
        """Append the line of a step that has ended."""
        line = {"step": step, "begin": self._begun, "end": time.monotonic(), "loss": loss, **figures}
        self._steps.write(json.dumps(line) + "\n")


@dataclass
class Turn:
    """Steps taken in one turn. `seconds`: from the first rank's begin to the last rank's end. `lines`:
    by rank and step."""

    seconds: float
    lines: list[list[Line]]


@dataclass
class Job:
    """The harness's side: a job of several processes. `ranks`: number of ranks that have a gate. `steps`: number of
    steps allowed so far."""

    name: str
    folder: Path
    command: Sequence[str]
    ranks: int
    environment: Mapping[str, str]
    steps: int = 0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self) -> None:
        """Start the job in a session of its own, with its output in the file `output`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env={**self.environment, _HARNESS: str(os.getpid())}, start_new_session=True,
            )  # fmt: skip

    def take(self, count: int, timeout: float = 600) -> Turn:
        """Let the job take `count` steps, and wait for them. Raises RuntimeError if it ends or takes too long."""
        first, self.steps = self.steps + 1, self.steps + count
        begin = time.monotonic()
        aside = self.folder / "allowed.partial"
        aside.write_text(str(self.steps), encoding="utf-8")
        aside.rename(self.folder / "allowed")
        while any(len(self.lines(rank)) < self.steps for rank in range(self.ranks)):
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} has ended before step {self.steps}\n{self._output()}")
            if time.monotonic() - begin > timeout:
                raise RuntimeError(f"{self.name}: no step {self.steps} within {timeout:.0f} s\n{self._output()}")
            time.sleep(_WATCHING)
        lines = [self.lines(rank)[first - 1 : self.steps] for rank in range(self.ranks)]
        return Turn(max(own[-1]["end"] for own in lines) - min(own[0]["begin"] for own in lines), lines)

    def lines(self, rank: int) -> list[Line]:
        """Return the complete lines of a rank."""
        file = self.folder / f"steps-{rank}.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def stop(self) -> None:
        """Kill all processes of the job."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):  # torchrun's ranks have sessions
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self._process.kill()
        self._process.wait()

    def _output(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8", errors="replace")[-4000:]


def environment(repository: Path, threads: int) -> dict[str, str]:
    """Return the environment of a job on loopback. `threads`: of each rank."""
    paths = [str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
