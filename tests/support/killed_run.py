"""A run that is killed again and again, and one that is left alone; what is to be equal in both."""

import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import support

SINK = '''
"""On rank 0. While there is a file `slow`, a step takes some milliseconds more and a save some tenths of a second."""
import os
import time
from launcher import sinks
from launcher.config.types import Plugin
from launcher.storage import checkpoint_format

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        if not hasattr(checkpoint_format, "at_once"):
            checkpoint_format.at_once = checkpoint_format.publish
            checkpoint_format.publish = publish

    def write(self, record):
        pause(0.02)

    def close(self, finished):
        pass

def pause(seconds):
    if os.path.exists("slow"):
        time.sleep(seconds)

def publish(*arguments, **options):
    pause(0.15)
    try:
        return checkpoint_format.at_once(*arguments, **options)
    finally:
        pause(0.05)
'''
TASK = '''
"""Each rank says which process it is."""
import os
from pathlib import Path
from launcher.tasks import tabular_regression

class Config(tabular_regression.Config):
    kind: str

class Task(tabular_regression.Task):
    known = False

    def loss(self, model, batch):
        if not Task.known and "RANK" in os.environ:
            Path(f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
            Task.known = True
        return super().loss(model, batch)
'''
EVERY = 5
"""Steps between two checkpoints."""


def write(steps: int) -> None:
    """The recipe `recipe.yaml`, with its plug-ins."""
    support.plugin("sink", SINK)
    support.plugin("task", TASK)
    support.write(
        support.small(
            "killed", task__kind="own.task", train__steps=steps, train__precision="fp64", data__train__rows=240,
            checkpoint={"every": EVERY, "keep": 2}, sinks=["jsonl", {"kind": "own.sink"}],
        )
    )  # fmt: skip


def undisturbed(ranks: int = 2) -> Path:
    """The run that nothing happens to."""
    support.launcher("run", "recipe.yaml", "name=whole", "--ranks", ranks, timeout=600)
    return Path("runs/whole")


def same_end(killed: Path, whole: Path) -> None:
    """Each line of a step, in whatever start it was written, and the last weights and moments, to the last bit."""
    expected = {step: (record["data"], record["loss"]) for step, record in support.steps(whole).items()}
    seen = [record for record in support.records(killed) if "loss" in record]
    assert sorted({record["step"] for record in seen}) == sorted(expected)
    wrong = [record["step"] for record in seen if (record["data"], record["loss"]) != expected[record["step"]]]
    assert wrong == []
    (here,), (there,) = (list(run.glob(f"checkpoints/step-*{max(expected)}")) for run in (killed, whole))
    assert support.tensors(here) == support.tensors(there)


def saves() -> bool:
    """Whether a save is in flight, or was when all were killed."""
    return any(Path("runs/killed/checkpoints").glob(".step-*"))


@dataclass
class Kill:
    """One kill of all processes. `moment`: chosen beforehand; `saving`: a checkpoint was half-written; `step`: the last
    line of the metrics; `saved`: the step of the newest whole checkpoint."""

    moment: str
    saving: bool
    step: int
    saved: int


@dataclass
class Killer:
    """Starts the run, and kills every process of it at moments that a seed decides."""

    seed: int
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def kill_once(self) -> bool:
        """Start the run and kill it. Returns False if it has ended before."""
        moment = self.draw.choices(["starting", "training", "saving"], [1, 4, 5])[0]
        process = support.start("run", "recipe.yaml", "--ranks", 2)
        before = _saved()
        if moment == "starting":
            time.sleep(self.draw.uniform(0, 1.5))
        else:
            steps = before + self.draw.randint(1, 2 * EVERY)
            self._wait(process, lambda: _step() >= steps)
        if moment == "saving":
            self._wait(process, saves)
        time.sleep(self.draw.uniform(0, 0.2 if moment == "saving" else 0.05))
        self._wait(process, lambda: os.getpgid(process.pid) == process.pid)  # else it is only being forked
        if process.poll() is not None:
            return False
        support.kill_group(process)
        self.kills.append(Kill(moment, moment != "starting" and saves(), _step(), _saved()))
        return True

    def _wait(self, process: object, true: object) -> None:
        end = time.monotonic() + 120
        while not true() and process.poll() is None:  # type: ignore[operator, attr-defined]
            assert time.monotonic() < end, "no step within two minutes"
            time.sleep(0.003)

    def table(self) -> None:
        """Print the kills."""
        print("\nmoment    kills  half-written  mean steps lost")
        for moment in ("starting", "training", "saving"):
            own = [kill for kill in self.kills if kill.moment == moment]
            lost = sum(max(0, kill.step - kill.saved) for kill in own) / max(1, len(own))
            print(f"{moment:<9} {len(own):>5} {sum(kill.saving for kill in own):>13} {lost:>16.1f}")


def kill_rank(rank: int) -> None:
    """Kill the process of a rank, which it has written down."""
    os.kill(int(Path(f"pid-{rank}").read_text()), signal.SIGKILL)


def events(kind: str) -> list[dict[str, object]]:
    """The events of a kind in the job log."""
    file = Path("runs/killed/jobs.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [event for line in lines if line.endswith("}") and (event := json.loads(line))["event"] == kind]


def _step() -> int:
    """The step of the last whole line of the metrics; 0: there is none."""
    file = Path("runs/killed/metrics.jsonl")
    if not file.exists():
        return 0
    with file.open("rb") as data:
        data.seek(max(0, data.seek(0, os.SEEK_END) - 2000))
        lines = data.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _saved() -> int:
    """The step of the newest whole checkpoint; 0: there is none."""
    marks = Path("runs/killed/checkpoints").glob("step-*/COMPLETE")
    return max((int(mark.parent.name[5:]) for mark in marks), default=0)
