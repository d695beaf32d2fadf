"""Copies in memory: a run whose ranks are killed goes on from them, without a checkpoint on disk."""

import json
from pathlib import Path

import pytest
import support
from safetensors.torch import load_file

KILLER = '''
"""A sink that kills its rank once at each of some steps."""
import os
import signal
from pathlib import Path
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str
    at: list[int]

class Sink(sinks.Sink):
    def __init__(self, config, about):
        self.at, self.done = config.at, Path(about.folder, "killed")

    def write(self, record):
        killed = self.done.read_text().split() if self.done.exists() else []
        if "loss" in record and record["step"] in self.at and str(record["step"]) not in killed:
            self.done.write_text(" ".join([*killed, str(record["step"])]))
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self, finished):
        pass
'''


@pytest.fixture
def memory(workspace, monkeypatch):
    """The folder of the copies of this test's runs."""
    folder = Path("/dev/shm", f"test-{workspace.name}-{id(workspace)}")
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("LAUNCHER_MEMORY", str(folder))
    support.plugin("killer", KILLER)
    yield folder
    import shutil

    shutil.rmtree(folder)


def weights(run):
    """The tensors of the newest checkpoint."""
    newest = sorted(Path(run, "checkpoints").glob("step-*"))[-1]
    found = {}
    for file in newest.glob("*.safetensors"):
        found |= {f"{file.name}/{name}": tensor for name, tensor in load_file(file).items()}
    return found


@pytest.mark.parametrize("kills", [[5, 6, 13], pytest.param([*range(4, 100, 3)], marks=pytest.mark.soak)])
def test_a_killed_rank_repeats_at_most_the_steps_between_two_copies_and_reads_no_disk(memory, kills):
    steps = kills[-1] + 3
    changes = {"train__steps": steps, "strategy": {"kind": "ddp"}}
    file = support.write(support.mlm("killed", checkpoint={"memory": "every 2 steps"}, sinks=["jsonl", {"kind": "own.killer", "at": kills}], **changes))
    done = support.launcher("run", file, "--ranks", 2, f"cluster.max_restarts={len(kills)}", timeout=900)
    print(done.stdout, done.stderr)
    support.launcher("run", support.write(support.mlm("alone", **changes), "alone.yaml"), "--ranks", 2)
    there, here = support.steps("runs/alone"), support.steps("runs/killed")
    assert list(here) == list(there) == list(range(1, steps + 1))
    assert [here[s]["data"] for s in here] == [there[s]["data"] for s in there]
    assert [here[s]["loss"] for s in here] == [there[s]["loss"] for s in there]
    written = [r["step"] for r in support.records("runs/killed") if "loss" in r]
    for before, after in zip(written, written[1:]):
        assert after in (before + 1, before, before - 1)  # the copy of the step before, or of that before it
    assert (Path("runs/killed/killed").read_text().split()) == [str(at) for at in kills]
    ours, theirs = weights("runs/killed"), weights("runs/alone")
    assert ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)
    assert [path.name for path in Path("runs/killed/checkpoints").iterdir()] == [f"step-{steps:08d}"]
    assert not list(memory.iterdir())
    assert done.stdout.count("from the copy in memory") == len(kills)
