import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import support
from safetensors.numpy import load_file
from support import ranks

from launcher.config.errors import UserError
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir


def state(step, **more):
    return {"step": step, "samples": 0, "tokens": 0, "seconds": 0.0, "data": "d", "evaluation": {}, **more}


def tensors(scale=1.0):
    import torch

    return {
        "model.a": torch.arange(12.0).reshape(3, 4) * scale,
        "model.b": torch.tensor([1, 2, 3], dtype=torch.int64),
        "model.half": torch.ones(5, dtype=torch.bfloat16) * scale,
        "optimizer.a.step": torch.tensor(7.0, dtype=torch.float64) * scale,
    }


def save(process, folder, steps, keep, losses=()):
    from launcher.train import checkpoint

    run = RunDir(Path(folder))
    for step, loss in zip(steps, [*losses, *[None] * len(steps)], strict=False):
        told = state(step, evaluation={} if loss is None else {"eval/loss": loss})
        checkpoint.save(run, tensors(step), told, keep, process)


def load(process, folder):
    from launcher.train import checkpoint

    empty = {name: tensor.zero_() for name, tensor in tensors().items()}
    saved = RunDir(Path(folder)).whole()[-1]
    checkpoint.load(empty, saved)
    return all(
        tensor.equal(expected) for tensor, expected in zip(empty.values(), tensors(saved.step).values(), strict=True)
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    return str(tmp_path)


@pytest.mark.parametrize(("writers", "readers"), [(1, 3), (3, 1), (2, 2)])
def test_what_some_ranks_save_others_load(folder, writers, readers):
    ranks.on_ranks(writers, save, folder, [3], 2)
    assert ranks.on_ranks(readers, load, folder) == [True] * readers
    (saved,) = RunDir(Path(folder)).whole()
    saved.verify()
    assert {p.suffix for p in saved.path.iterdir()} == {".safetensors", ".yaml", ".json", ""}  # no pickle


def hashed(process, folder):
    """The files that this rank computes a checksum of in a save."""
    from launcher.storage import checkpoint_format

    names, compute = [], checkpoint_format.checksum
    checkpoint_format.checksum = lambda file: names.append(file.name) or compute(file)
    save(process, folder, [3], 2)
    return names


def test_each_rank_computes_the_checksums_of_what_it_has_written(folder):
    first, second = ranks.on_ranks(2, hashed, folder)
    (saved,) = RunDir(Path(folder)).whole()
    saved.verify()
    assert [name[:11] for name in second] == ["shard-00002"]
    assert sorted([*first, *second]) == sorted({p.name for p in saved.path.iterdir()} - {"COMPLETE"})


def test_the_newest_and_the_best_are_kept(folder):
    ranks.on_ranks(1, save, folder, [1, 2, 3, 4, 5], 2, [3.0, 1.0, 2.0, 2.5, 4.0])
    assert [saved.step for saved in RunDir(Path(folder)).whole()] == [2, 4, 5]
    assert RunDir(Path(folder)).saved("best").step == 2


def save_beside_a_ghost(process, folder):
    """A start that was replaced is about to publish the same step, while the newer one writes it."""
    from launcher.config.training import Checkpoint
    from launcher.storage import checkpoint_format, lease
    from launcher.train import checkpoint
    from launcher.train.checkpoint_writer import CheckpointWriter

    run, write = RunDir(Path(folder)), checkpoint_format.write_parts
    old = lease.claim(run.path, ".writer")
    aside = run.checkpoints / ".step-00000001.partial"

    def ghost(*arguments):
        nonlocal aside
        written = write(*arguments)
        here = next(run.checkpoints.glob(".step-*"))
        if new is None:
            aside = here
        else:
            aside.mkdir(exist_ok=True)
            final = run.checkpoints / "step-00000001"
            ghostly = CheckpointWriter(run, process, Checkpoint(), old)
            assert not checkpoint_format.publish(aside, final, {}, run.recipe, ghostly.holds)
        return written

    checkpoint_format.write_parts = ghost
    new = None
    save(process, folder, [1], 2)
    shutil.rmtree(run.checkpoints / "step-00000001")
    new = lease.claim(run.path, ".writer")
    checkpoint.save(run, tensors(2), state(1), 2, process, new)
    new.release()


def test_a_ghost_does_not_take_away_what_the_newer_start_is_writing(folder):
    ranks.on_ranks(1, save_beside_a_ghost, folder)
    (saved,) = RunDir(Path(folder)).whole()
    saved.verify()


def save_while_another_takes_over(process, folder):
    """A save whose half-written folder a newer start removes, as after a long sleep. Returns the message."""
    from launcher.storage import checkpoint_format, lease
    from launcher.train import checkpoint

    run = RunDir(Path(folder))
    old, write = lease.claim(run.path, ".writer"), checkpoint_format.write_parts

    def overtaken(parts, partial, rank):
        write(parts, partial, rank)
        lease.claim(run.path, ".writer")
        shutil.rmtree(partial)

    checkpoint_format.write_parts = overtaken
    try:
        checkpoint.save(run, tensors(), state(3), 2, process, old)
    except checkpoint.RunReplaced as error:
        return str(error)


def test_a_save_that_another_start_has_cleared_away_ends_as_replaced(folder):
    (message,) = ranks.on_ranks(1, save_while_another_takes_over, folder)
    assert message == "another start of this run has taken over: this one leaves, and saves nothing"
    assert list(Path(folder, "checkpoints").iterdir()) == []


def test_what_a_kill_left_behind_is_replaced(folder):
    half = Path(folder, "checkpoints", "step-00000002")
    half.mkdir(parents=True)
    (half / "rubbish").write_text("half")
    (half.parent / ".step-00000007.partial").mkdir()
    ranks.on_ranks(1, save, folder, [1, 2], 2)
    assert [saved.step for saved in RunDir(Path(folder)).whole()] == [1, 2]
    assert not RunDir(Path(folder)).half_written() and not (half / "rubbish").exists()


def save_without_room(process, folder):
    import torch

    from launcher.storage.disk_full import DiskFull
    from launcher.train import checkpoint

    run = RunDir(Path(folder))
    weights = {"model.a": torch.ones(2**17), "model.b": torch.ones(2**17)}  # 1 MiB
    checkpoint.save(run, {"model.a": torch.zeros(1)}, state(1), 3, process)
    try:
        checkpoint.save(run, weights, state(2), 3, process)
    except DiskFull as error:
        return str(error)
    return "saved"


@pytest.mark.parametrize("world", [1, 2])
def test_a_full_disk_leaves_nothing_half_written_and_what_was_saved(tmp_path, world):
    disk = tmp_path / "disk"
    with support.tmpfs(disk, "900k"):
        (disk / "recipe.yaml").write_text("name: a\n")
        told = ranks.on_ranks(world, save_without_room, str(disk))
        pattern = rf"the disk of {disk}/checkpoints is full: about 1\.1 MiB are needed, 8\d\d\.0 KiB are free \(make .*"
        assert all(re.fullmatch(pattern, each) for each in told), told
        (saved,) = RunDir(disk).whole()
        saved.verify()
        assert saved.step == 1
        assert list(RunDir(disk).checkpoints.iterdir()) == [saved.path]


def fail_at(process, folder, where):
    """A save that fails with ENOSPC at one of its last steps: when it is renamed, or when it is marked as whole."""
    import os

    from launcher.config import atomic_files
    from launcher.storage import checkpoint_format
    from launcher.storage.disk_full import DiskFull

    flush = atomic_files.flush

    def full(path):
        if re.search(where, path.name):
            raise OSError(28, os.strerror(28), str(path))
        flush(path)

    save(process, folder, [1], 2)
    checkpoint_format.flush = atomic_files.flush = full
    with pytest.raises(DiskFull):
        save(process, folder, [2], 2)


@pytest.mark.parametrize("where", ["^state.json$", r"^\.step-.*\.partial$", "^checkpoints$", r"^\.COMPLETE\."])
def test_wherever_a_save_fails_nothing_of_it_stays(folder, where):
    ranks.on_ranks(1, fail_at, folder, where)
    (saved,) = RunDir(Path(folder)).whole()
    assert list(RunDir(Path(folder)).checkpoints.iterdir()) == [saved.path]
    assert saved.step == 1


def test_where_room_is_short_what_a_save_supersedes_goes_first(tmp_path):
    """Two of about 130 KiB fit, a third does not: the newest is never removed before another is whole."""
    disk = tmp_path / "disk"
    with support.tmpfs(disk, "370k"):
        (disk / "recipe.yaml").write_text("name: a\n")
        assert ranks.on_ranks(1, save_large, str(disk), [1, 2, 3, 4], 2) == [[[1], [1, 2], [2, 3], [3, 4]]]


def save_large(process, folder, steps, keep):
    """The steps of the whole checkpoints after each save of 128 KiB."""
    import torch

    from launcher.train import checkpoint

    run, kept = RunDir(Path(folder)), []
    for step in steps:
        checkpoint.save(run, {"model.a": torch.ones(2**15)}, state(step), keep, process)
        kept.append([saved.step for saved in run.whole()])
    return kept


def test_every_file_is_checked(folder):
    ranks.on_ranks(1, save, folder, [1], 2)
    (saved,) = RunDir(Path(folder)).whole()
    for file in saved.path.iterdir():
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(UserError, match="damaged"):
            SavedCheckpoint(saved.path).verify()
        file.write_bytes(before)
    saved.verify()


def other(process, folder):
    import torch

    from launcher.train import checkpoint

    saved = RunDir(Path(folder)).whole()[-1]
    with pytest.raises(
        UserError, match=r"another model: model.a: \(3, 4\) there, \(4, 3\) here; model.new: missing there"
    ):
        checkpoint.load({"model.a": torch.zeros(4, 3), "model.new": torch.zeros(1)}, saved)
    thawed = {"optimizer.thawed.step": torch.zeros(1), "optimizer.thawed2.step": torch.zeros(1)}
    with pytest.raises(UserError, match=r"another model: optimizer.thawed2.step: missing there, \(1,\) here$"):
        checkpoint.load(thawed, saved, new=("optimizer.thawed.",))
    checkpoint.load(thawed, saved, new=("optimizer.thawed.", "optimizer.thawed2."))


def test_another_model_is_refused_by_name_and_shape(folder):
    ranks.on_ranks(1, save, folder, [1], 2)
    ranks.on_ranks(1, other, folder)


def test_a_run_goes_on_though_the_checkpoint_that_its_model_began_from_is_gone(workspace):
    support.launcher("run", support.write(support.mlm("first", train__steps=2)), "--ranks", 1)
    model = {"kind": "run", "run": "runs/first"}
    file = support.write(support.mlm("second", model=model, tokenizer=None, train__steps=2), "second.yaml")
    support.launcher("run", file, "checkpoint.every=1", "--ranks", 1)
    last = Path("runs/second/checkpoints/step-00000002")
    expected = tensors_of(last)
    for gone in (Path("runs/first/checkpoints"), last):
        shutil.rmtree(gone)
    support.launcher("run", file, "checkpoint.every=1", "--ranks", 1)
    found = tensors_of(last)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def tensors_of(path):
    return {name: tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_a_checkpoint_tells_what_made_it(workspace):
    support.launcher("run", support.write(support.mlm(evaluate__every=3)), "checkpoint.every=3", "--ranks", 2)
    saved = RunDir(Path("runs/tiny")).saved("best")
    told = json.loads((saved.path / "state.json").read_text())
    assert told["ranks"] == 2 and told["strategy"] == "ddp" and told["samples"] == 12 * told["step"]
    assert told["evaluation"]["eval/loss"] == support.evaluations("runs/tiny")[told["step"]]["eval/loss"]
    assert (saved.path / "recipe.yaml").read_text() == Path("runs/tiny/recipe.yaml").read_text()
