"""A run that is held in a phase of its life for as long as a file says, so that a signal meets it there."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import support

GATE = '''
"""hold(phase): while there is a file hold-PHASE, stay here, and say so by a file at-PHASE."""
import os
import time

step = 0  # the last one whose record was written
with open(f"pid-{os.environ.get('RANK')}", "w") as file:
    file.write(str(os.getpid()))

def hold(phase):
    if os.path.exists(f"hold-{phase}"):
        os.close(os.open(f"at-{phase}", os.O_CREAT))  # `open` is gone when Python takes its modules apart
        while os.path.exists(f"hold-{phase}"):
            time.sleep(0.01)

class Last:
    """Removed when Python takes modules apart: the last that is heard of a process."""

    def __del__(self, hold=hold):
        hold("exit")

_last = Last()
'''
DATA = """
from own import gate
from launcher.data import linear

class Config(linear.Config):
    kind: str

class Source(linear.Source):
    def rows(self, *arguments):
        gate.hold("preparing")
        return super().rows(*arguments)
"""
TASK = """
import os
import traceback
from own import gate
from launcher.tasks import tabular_regression

class Config(tabular_regression.Config):
    kind: str

class Task(tabular_regression.Task):
    def loss(self, model, batch):
        if gate.step == 2:
            gate.hold("step")
        if gate.step == 0 and os.path.exists("hold-first"):
            if any(frame.name == "accumulate" for frame in traceback.extract_stack()):  # and no probe of the build
                gate.hold("first")
        gate.hold("measuring")
        return super().loss(model, batch)

    def metrics(self, outputs):
        gate.hold("looking")
        if gate.step == 4:
            gate.hold("evaluating")
        return super().metrics(outputs)
"""
SINK = '''
"""On rank 0. A save is held when the tensors are written, before the folder is completed and renamed."""
from own import gate
from launcher import sinks
from launcher.config.types import Plugin
from launcher.storage import checkpoint_format

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        checkpoint_format.publish = publish
        gate.hold("building")

    def write(self, record):
        gate.step = record["step"]

    def close(self, finished):
        gate.hold("ending")

def publish(*arguments, publish=checkpoint_format.publish):
    if gate.step == 4:
        gate.hold("saving")
    return publish(*arguments)
'''
PHASES = ("starting", "preparing", "building", "step", "evaluating", "saving", "ending", "exit")
STARTS = {"run": (), "torchrun": ("--via", "torchrun"), "accelerate": ("--via", "accelerate")}
SIGNALS = tuple(signal.Signals[f"SIG{name}"] for name in ("TERM", "INT", "HUP", "USR1", "KILL"))


def write(seed=0, workers=0, rows=120, sinks=("jsonl", {"kind": "own.sink"})):
    """A recipe of six steps on two ranks, evaluated after the fourth, that can be held everywhere. `seed`: of its data,
    which are prepared once; `rows`: how many they are."""
    for name, text in (("gate", GATE), ("data", DATA), ("task", TASK), ("sink", SINK)):
        support.plugin(name, text)
    recipe = support.small(
        "held", data__train__kind="own.data", data__train__seed=seed, data__train__rows=rows,
        data__validation={"fraction": 0.2},
        task__kind="own.task", evaluate__every=4, checkpoint={"every": 2, "keep": 9}, sinks=list(sinks),
        train__workers=workers,
    )  # fmt: skip
    support.write(recipe)


@dataclass
class LeaseHeld:
    """A start that is held in a phase.

    `ranks`: how many they are. `saved`: the steps of its whole checkpoints when it has ended; `seconds`: from the last
    signal to the end of the launcher; `said`: what it has printed.
    """

    start: str
    phase: str
    ranks: int = 2
    code: int = 0
    seconds: float = 0.0
    said: str = ""
    saved: list[int] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    def begin(self):
        """Start it, and wait until it is there."""
        Path(f"hold-{self.phase}").touch()
        Path(f"at-{self.phase}").unlink(missing_ok=True)
        with Path("said").open("wb") as out:
            self.process = subprocess.Popen(
                support.command("run", "recipe.yaml", "--ranks", self.ranks, *STARTS[self.start]),
                stdout=out, stderr=out, start_new_session=True, preexec_fn=hear,
            )  # fmt: skip
        support.wait_for(lambda: self._there() or self.process.poll() is not None, 180)
        assert self.process.poll() is None, Path("said").read_text()
        return self

    def _there(self):
        return listens(self.process.pid) if self.phase == "starting" else Path(f"at-{self.phase}").exists()

    def _heard(self):
        return "stopping: " in Path("said").read_text()

    def send(self, number, times=1, group=False):
        """`group`: to all processes of the launcher's group, as a terminal does. A second one follows when the first
        was heard; it is to work while all stand still."""
        for again in range(times):
            (os.killpg if group else os.kill)(self.process.pid, number)
            if self.phase in ("building", "step", "evaluating", "saving", "ending") and number is not signal.SIGKILL:
                support.wait_for(lambda: self._heard() or self.process.poll() is not None, 180)
            else:
                time.sleep(0.1)
            if number is signal.SIGHUP and not again and times > 1:
                time.sleep(1)  # two in a second are one
        if times == 1 or self.phase in ("exit", "starting"):
            Path(f"hold-{self.phase}").unlink()
        return self

    def end(self):
        """Wait for its end, and look at what it has left."""
        begin = time.monotonic()
        self.code = self.process.wait(180)
        self.seconds = time.monotonic() - begin
        with contextlib.suppress(AssertionError):
            support.wait_for(lambda: not left(), 30)
        self.orphans = left()
        self.said = Path("said").read_text()
        self.saved = saved()
        Path(f"hold-{self.phase}").unlink(missing_ok=True)
        return self


def hear():
    """Whoever runs tests in the background of a shell has INT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def listens(pid):
    """Whether a process has a handler for TERM."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def left():
    """The processes that work in this folder, but for this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(Path.cwd()) and process.pid != os.getpid():
                found.append(f"{process.pid} {' '.join(process.cmdline())[-60:]}")
    return found


def saved():
    """The steps of the whole checkpoints."""
    return sorted(int(mark.parent.name[5:]) for mark in Path("runs/held/checkpoints").glob("step-*/COMPLETE"))
