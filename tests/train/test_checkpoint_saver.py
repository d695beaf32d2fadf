"""A checkpoint that a thread writes is the one that training would have waited for, and nothing of it is lost."""

import gc
import os
import signal
import threading
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import support
from safetensors.numpy import load_file
from support import ranks, strategy_steps
from support.failing_disk import held, saver

from launcher.storage.run_dir import RunDir

SPREAD = {
    1: [{"kind": "single"}],
    2: [
        {"kind": "ddp"},
        {"kind": "fsdp"},
        {"kind": "fsdp", "offload": True},
        {"kind": "fsdp", "tensor_parallel": 2},
        *({"kind": "deepspeed", "zero": stage} for stage in (0, 1, 2, 3)),
    ],
    4: [{"kind": "fsdp", "shard": "hybrid", "replicas": 2}],
}
CASES = [(world, strategy) for world, strategies in SPREAD.items() for strategy in strategies]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("saver")), Path.cwd()
    os.chdir(place)
    yield place / ranks.ready(support.write(support.mlm(train__steps=20, checkpoint__every=1)))
    os.chdir(before)


# The same as a save that training waits for


def slow_copy(copy, parts):
    from launcher.train.saved_parts import Part

    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.3)
    return {name: Part(offsets, values.clone()) for name, (offsets, values) in parts.items()}


def twice(process, folder, place, strategies):
    """The state of a step saved in both ways. The copy is slow and the disk slower: the first bytes are written two
    updates later. Then one run goes on from each."""
    from dataclasses import replace

    from launcher.train import loop
    from launcher.train.saved_parts import HostCopy

    told = []
    for number, strategy in enumerate(strategies):
        run = strategy_steps.build(process, folder, strategy)
        release = Path(place, f"release-{number}-{process.world}")
        there = {mode: str(Path(place, f"{mode}-{number}-{process.world}")) for mode in ("sync", "async")}
        strategy_steps.take(run, 2)
        loop.begin_save(replace(run, saver=saver(run, there["sync"], mode="sync")))
        with held(release), patch.object(HostCopy, "update", slow_copy):
            run = replace(run, saver=saver(run, there["async"]))
            loop.begin_save(run)
            records = strategy_steps.take(run, 2)
            assert run.saver.writing and not RunDir(Path(there["async"])).whole()
            process.barrier()
            release.touch()
            run.saver.finish()
        after = []
        for path in there.values():
            resumed = strategy_steps.build(process, folder, strategy, resume=RunDir(Path(path)).saved(2))
            after.append(strategy_steps.take(resumed, 2))
        told.append([records, *after])
    return told


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("both")
    return place, {
        world: ranks.on_ranks(world, twice, folder, str(place), strategies) for world, strategies in SPREAD.items()
    }


def named(case):
    return ",".join(f"{key}={value}" for key, value in case[1].items()).removeprefix("kind=")


def plain(records):
    return [{k: v for k, v in record.items() if k not in ("seconds", "waited")} for record in records]


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_save_beside_training_is_that_of_its_step(told, case):
    place, results = told
    world, strategy = case
    number = SPREAD[world].index(strategy)
    saved = [RunDir(place / f"{mode}-{number}-{world}").saved("latest") for mode in ("sync", "async")]
    for each in saved:
        each.verify()
    one, other = ({file.name: load_file(file) for file in each.path.glob("*.safetensors")} for each in saved)
    assert one.keys() == other.keys() and {len(tensors) > 0 for tensors in one.values()} == {True}
    for file, tensors in one.items():
        assert tensors.keys() == other[file].keys()
        assert all(np.array_equal(tensor, other[file][name]) for name, tensor in tensors.items())
    first, *resumed = (plain(records) for records in results[world][0][number])
    assert resumed[0] == resumed[1]
    assert [record["data"] for record in first] == [record["data"] for record in resumed[0]]


def written_by_torch(process, place):
    """The same state, by torch's own writer and by this one."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    from launcher.storage import checkpoint_format
    from launcher.train.saved_parts import OwnParts, on_host

    mesh = init_device_mesh("cpu", (2,))
    shard = torch.arange(12.0).reshape(2, 6) + 100 * process.rank
    state = {
        "model.whole": torch.arange(5.0),
        "model.other": torch.ones(3, dtype=torch.bfloat16),
        "model.shard": DTensor.from_local(shard, mesh, [Shard(0)]),
    }
    here, there = Path(place, "here"), Path(place, "there")
    here.mkdir(exist_ok=True)
    process.barrier()
    dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(str(there), save_distributed=True))
    checkpoint_format.write_parts(on_host(OwnParts().of(state, process)), here, process.rank)


def test_the_files_are_those_that_torch_would_write(tmp_path):
    from safetensors import safe_open

    ranks.on_ranks(2, written_by_torch, str(tmp_path))
    files = sorted(file.name for file in (tmp_path / "there").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "here").iterdir())
    for file in files:
        with safe_open(tmp_path / "here" / file, "pt") as one, safe_open(tmp_path / "there" / file, "pt") as other:
            assert one.metadata() == other.metadata()
            assert list(one.keys()) == list(other.keys())
            assert all(one.get_tensor(name).equal(other.get_tensor(name)) for name in one.keys())  # noqa: SIM118


# One save at a time


def state(step):
    return {"step": step, "evaluation": {}}


def wait_and_merge(process, folder, place):
    """What is saved while writes are held: by steps the next save waits, by time there is none until it is over."""
    import torch

    run = strategy_steps.build(process, folder, {"kind": "ddp"})
    release, weights = Path(place, "release"), {"model.a": torch.zeros(3)}
    timed = saver(run, Path(place, "timed"), every="continuous")
    told = [timed.due()]
    with held(release):
        timed.save(weights, state(1), 2)
        told += [timed.due(), timed.writing]
        timed.collect(writing=True)
        threading.Timer(0.5, release.touch).start()
        begin = time.monotonic()
        timed.save(weights, state(2), 2)  # waits for the first
        told.append(time.monotonic() - begin > 0.2)
        timed.finish()
    told += [timed.due(), [saved.step for saved in RunDir(Path(place, "timed")).whole()]]
    return told


def test_a_save_waits_for_the_one_before_and_one_by_the_clock_is_merged(folder, tmp_path):
    assert ranks.on_ranks(2, wait_and_merge, folder, str(tmp_path)) == [[True, False, True, True, True, [1, 2]]] * 2


def fifty(process, folder, place, mode):
    """The resident bytes and the open files after each of 52 saves of 8 MiB."""
    import torch

    run = strategy_steps.build(process, folder, {"kind": "ddp"})
    weights = {f"model.{name}": torch.ones(2**19) for name in "abcd"}
    one, told = saver(run, Path(place), mode=mode, keep=1), []
    for step in range(52):
        one.save(weights, state(step), 1)
        one.finish()
        gc.collect()
        at = psutil.Process()
        told.append((at.memory_info().rss, at.num_fds(), at.num_threads()))
    return told


def test_memory_files_and_threads_stay_as_they_are_over_fifty_saves(folder, tmp_path):
    """Adds some 3 s: nothing else shows that a save leaves nothing behind in the process."""
    for memory in ranks.on_ranks(2, fifty, folder, str(tmp_path / "saves"), "async"):
        assert memory[-1][0] - memory[2][0] < 24 * 2**20, "a rank's copy is 4 MiB: kept by each save, it would be 200"
        files, threads = memory[2][1:]
        assert memory[-1][1] <= files and memory[-1][2] <= threads  # earlier work of the process may close some later


def failing(process, folder, place, where):
    """An error of the writer that no disk is to blame for is raised on every rank by the loop. `where`: in the copy, or
    when the parts are written."""
    import torch

    from launcher.storage import checkpoint_format
    from launcher.train.saved_parts import HostCopy

    run, told = strategy_steps.build(process, folder, {"kind": "ddp"}), ""
    one = saver(run, Path(place))

    def write(parts, partial, rank, write=checkpoint_format.write_parts):
        if rank == 1:
            raise ValueError("the third law of thermodynamics")
        return write(parts, partial, rank)

    def update(copy, parts, update=HostCopy.update):
        if process.rank == 1 and threading.current_thread() is not threading.main_thread():
            raise ValueError("the third law of thermodynamics")
        return update(copy, parts)

    owner, name, call = {
        "copy": (HostCopy, "update", update),
        "write": (checkpoint_format, "write_parts", write),
    }[where]
    with patch.object(owner, name, call):
        one.save({"model.a": torch.ones(3), "model.b": torch.ones(3)}, state(1), 2)
        try:
            one.finish()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
    return told, list(RunDir(Path(place)).checkpoints.iterdir())


@pytest.mark.parametrize("where", ["copy", "write"])
def test_an_error_of_the_writer_is_never_lost(folder, tmp_path, where):
    what = "ValueError: the third law of thermodynamics"
    told = [(f"RuntimeError: rank 1 cannot save: {what}", []), (what, [])]
    assert ranks.on_ranks(2, failing, folder, str(tmp_path / "run"), where) == told


# Stops


SLOW = '''
"""On rank 0, checkpoints are published only while there is no file `hold`."""
import os
import time
from launcher import sinks
from launcher.config.types import Plugin
from launcher.storage import checkpoint_format

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        checkpoint_format.publish = publish

    def write(self, record):
        pass

    def close(self, finished):
        pass

def publish(*arguments, publish=checkpoint_format.publish):
    while os.path.exists("hold"):
        os.close(os.open("held", os.O_CREAT))
        time.sleep(0.01)
    return publish(*arguments)
'''


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_a_stop_during_a_slow_save_waits_for_it_and_saves_the_last_step(workspace, seconds):
    """Adds 10 s: it alone stops ranks whose threads are writing, by a signal to the launcher."""
    support.plugin("slow", SLOW)
    file = support.write(support.small(train__steps=10**6, checkpoint__every=3, sinks=["jsonl", {"kind": "own.slow"}]))
    Path("hold").touch()
    process = support.start("run", file, "--ranks", 2)
    support.wait_for(Path("held").exists, 120)
    support.wait_for_step("runs/tiny", 5, process)
    process.send_signal(signal.SIGTERM)
    time.sleep(seconds)
    assert process.poll() is None and RunDir(Path("runs/tiny")).whole() == []
    Path("hold").unlink()
    out, _ = process.communicate(timeout=240)
    first, last = whole = RunDir(Path("runs/tiny")).whole()
    assert process.returncode == 75 and f"stopped: step {last.step} is saved" in out, out
    assert first.step == 3
    assert max(support.steps("runs/tiny")) == last.step
    for saved in whole:
        saved.verify()
