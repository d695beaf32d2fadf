"""Copies in memory: a run whose ranks are killed goes on from them, without a checkpoint on disk."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import support
from safetensors.torch import load_file
from support import warm_start

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.prepare import run_setup

KILLER = '''
"""A sink that kills its rank once at each of some steps, and in the copy after each of others."""
import os
import signal
from pathlib import Path
from launcher import sinks
from launcher.storage import memory_copy_format
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str
    at: list[int]
    torn: list[int] = []

class Sink(sinks.Sink):
    def __init__(self, config, about):
        self.config, self.done = config, Path(about.folder, "killed")

    def write(self, record):
        killed = self.done.read_text().split() if self.done.exists() else []
        if "loss" not in record or str(step := record["step"]) in killed:
            return
        if step in (*self.config.at, *self.config.torn):
            self.done.write_text(" ".join([*killed, str(step)]))
        if step in self.config.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step in self.config.torn:  # the file is overwritten, and its mark is not there yet
            memory_copy_format.Slot.complete = lambda slot, mark: os.kill(os.getpid(), signal.SIGKILL)

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
    shutil.rmtree(folder)


def weights(run):
    """The tensors of the newest checkpoint."""
    newest = sorted(Path(run, "checkpoints").glob("step-*"))[-1]
    found = {}
    for file in newest.glob("*.safetensors"):
        found |= {f"{file.name}/{name}": tensor for name, tensor in load_file(file).items()}
    return found


@pytest.mark.parametrize(
    "kills, torn", [([5, 9], [7]), pytest.param([*range(5, 130, 6)], [*range(7, 130, 6)], marks=pytest.mark.soak)]
)
def test_a_killed_rank_repeats_at_most_the_steps_between_two_copies_and_reads_no_disk(memory, kills, torn):
    """It alone proves the restarts of the launcher from copies, to the last bit of the weights."""
    steps = max(kills + torn) + 3
    changes = {"train__steps": steps, "strategy": {"kind": "ddp"}}
    sinks = ["jsonl", {"kind": "own.killer", "at": kills, "torn": [step - 1 for step in torn]}]
    recipe = support.mlm("killed", checkpoint={"memory": "every 2 steps"}, sinks=sinks, **changes)
    many = len(kills) + len(torn)
    done = support.launcher("run", support.write(recipe), "--ranks", 2, f"cluster.max_restarts={many}", timeout=2000)
    support.launcher("run", support.write(support.mlm("alone", **changes)), "--ranks", 2, timeout=900)
    there, here = support.steps("runs/alone"), support.steps("runs/killed")
    assert list(here) == list(there) == list(range(1, steps + 1))
    assert [(here[s]["data"], here[s]["loss"]) for s in here] == [(there[s]["data"], there[s]["loss"]) for s in there]
    written = [record["step"] for record in support.records("runs/killed") if "loss" in record]
    jumps = [before - after + 1 for before, after in itertools.pairwise(written) if after != before + 1]
    assert len(jumps) == many and max(jumps) <= 2
    assert done.stdout.count("from the copy in memory (on disk there is no checkpoint)") == many
    ours, theirs = weights("runs/killed"), weights("runs/alone")
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert [path.name for path in Path("runs/killed/checkpoints").iterdir()] == [f"step-{steps:08d}"]
    assert not list(memory.iterdir())


HOSTS = ("127.0.1.1", "127.0.1.2")


@pytest.fixture
def job(memory):
    """Starts the agents of two nodes, each with a memory of its own; ends what is left of them."""
    made = []

    def start(run, number):
        for node in (0, 1):
            place = memory / f"node-{node}"
            place.mkdir(mode=0o700, exist_ok=True)
            told = {"LAUNCHER_JOB": "7", "LAUNCHER_START": str(number), "LAUNCHER_MEMORY": str(place)}
            argv = [run.path, "--hosts", ",".join(HOSTS), "--node", node]
            made.append(warm_start.start(argv, module="launcher.launch.node", environment=told, stdin=subprocess.PIPE))
        return made[-2:]

    yield start
    for agent in made:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)


def test_a_node_that_lost_its_memory_gets_it_back_from_its_neighbour_and_both_go_back_to_the_disk(
    memory, job, monkeypatch
):
    """Two agents and their ranks are killed, twice. It alone proves copies on a neighbour between real nodes."""
    support.plugin("slow", support.SLOW)
    recipe = support.small(
        "nodes", train__steps=40, strategy={"kind": "fsdp"}, checkpoint={"memory": 2, "every": 15},
        sinks=["jsonl", {"kind": "own.slow"}],
    )  # fmt: skip
    loaded = load.recipe(support.write(recipe))
    cluster = Cluster.model_validate(
        {"name": "here", "kind": "ssh", "nodes": 2, "devices_per_node": 1, "device": "cpu", "memory_per_device": 8,
         "ssh": {"hosts": HOSTS}}
    )  # fmt: skip
    created = run_setup.create(run_setup.validate(loaded, cluster, None))
    created.release()
    run, said = created.folder, []
    for number, (until, wiped) in enumerate([(9, [0]), (22, [0, 1])]):
        agents = job(run, number)
        support.wait_for_step(run.path, until, agents[0])
        for agent in agents:
            os.killpg(agent.pid, signal.SIGKILL)
        said.append("".join(agent.communicate(timeout=60)[0] for agent in agents))
        for node in wiped:
            for folder in (memory / f"node-{node}").iterdir():
                shutil.rmtree(folder)
        monkeypatch.setenv("LAUNCHER_MEMORY", str(memory / "node-1"))
        shown = support.launcher("status", "runs/nodes").stdout
        assert ("copies in memory on this machine: " in shown) == (1 not in wiped)
    agents = job(run, 2)
    said.append("".join(agent.communicate(timeout=240)[0] for agent in agents))
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "from the copy in memory (on disk" in said[1] and "from the copy in memory" not in said[0] + said[2]
    first = [record["step"] for record in support.records(run.path) if "loss" in record]
    starts = [after for before, after in itertools.pairwise(first) if after != before + 1]
    assert len(starts) == 2 and 7 <= starts[0] <= 11 and starts[1] == 16
    losses = {}
    for record in support.records(run.path):
        if "loss" in record:
            losses.setdefault(record["step"], set()).add(record["loss"])
    assert all(len(found) == 1 for found in losses.values())
    assert not [*(memory / "node-0").iterdir(), *(memory / "node-1").iterdir()]
