"""A disk that is full, read-only, broken or slow while a run trains: training goes on, and nothing that was saved is
lost."""

import errno
import os
import re
import subprocess
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import support
from support import ranks, strategy_steps
from support.failing_disk import held, saver

from launcher.storage.run_dir import RunDir

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place, before = support.corpus(tmp_path_factory.mktemp("disks")), Path.cwd()
    os.chdir(place)
    yield place / ranks.ready(support.write(support.mlm(train__steps=20)))
    os.chdir(before)


def weights(step):
    import torch

    return {"model.a": torch.full((MIB // 8,), float(step)), "model.b": torch.full((MIB // 8,), float(step))}


def steps(run):
    for saved in run.whole():
        saved.verify()
    return [saved.step for saved in run.whole()]


def break_and_mend(process, folder, disk, broken, mended):
    """Saves of 1 MiB at four steps: before the disk breaks, while it is broken, before it is tried again, and after it
    has been mended. Returns which are whole after each, what is warned of, and whether one was due before it was
    tried again."""
    from launcher.train import checkpoint_pace, checkpoint_saver

    run, told, warnings = strategy_steps.build(process, folder, {"kind": "ddp"}), [], []
    one = saver(run, Path(disk, "run"), keep=1)
    with patch.object(checkpoint_saver, "warn", warnings.append):
        for step, (change, retry) in enumerate([(None, 60), (broken, 60), (mended, 0)], start=1):
            if change is not None and process.rank == 0:
                change(disk)
            process.barrier()
            checkpoint_pace.RETRY_SECONDS = retry
            one.save(weights(step), {"step": step, "evaluation": {}}, 1)
            one.finish()
            told.append((steps(RunDir(Path(disk, "run"))), one.due()))
    left = sorted(path.name for path in RunDir(Path(disk, "run")).checkpoints.iterdir())
    return told, warnings, left


def remount(options, disk):
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def break_fsync(disk):
    from launcher.storage import checkpoint_format

    def flush(path, flush=checkpoint_format.flush):
        if path.suffix == ".safetensors":  # where Linux reports that a page could not be written
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        flush(path)

    mend_fsync.flush, checkpoint_format.flush = checkpoint_format.flush, flush


def mend_fsync(disk):
    from launcher.storage import checkpoint_format

    checkpoint_format.flush = mend_fsync.flush


REPAIR = "nothing can be written there (repair or remount it)"
BROKEN = {
    "full": (
        partial(remount, "size=1500k"), partial(remount, "size=9m"),
        "is full: about 1.1 MiB are needed, .* are free (make room there)",
    ),
    "read-only": (partial(remount, "ro"), partial(remount, "rw"), f"is read-only: {REPAIR}"),
    "input/output": (break_fsync, mend_fsync, f"fails (Input/output error): {REPAIR}"),
}  # fmt: skip


@pytest.mark.parametrize("how", sorted(BROKEN))
def test_a_disk_that_breaks_is_a_warning_and_when_it_works_again_a_new_checkpoint_is_whole(folder, tmp_path, how):
    broken, mended, sentence = BROKEN[how]
    with support.tmpfs(tmp_path / "disk", "9m"):
        first, second = ranks.on_ranks(2, break_and_mend, folder, str(tmp_path / "disk"), broken, mended)
        told, warnings, left = first
        assert told == second[0] == [([1], False), ([1], False), ([3], False)]
        expected = f"warning: the checkpoint of step 2 could not be saved: the disk of {tmp_path}/disk/run/checkpoints "
        (warning,) = warnings
        assert warning.startswith(expected)
        assert re.fullmatch(re.escape(sentence).replace(r"\.\*", ".*"), warning[len(expected) :].partition(";")[0])
        assert warning.endswith("; the last good one is of step 1; training goes on, and the next state is saved later")
        assert second[1] == [] and left == ["step-00000003"]


def retry(process, folder, disk):
    """The disk is full at a save, which is due again later, and before that never."""
    from launcher.train import checkpoint_pace, checkpoint_saver

    run, told = strategy_steps.build(process, folder, {"kind": "ddp"}), []
    one = saver(run, Path(disk, "run"), keep=1)
    checkpoint_pace.RETRY_SECONDS = 1.0
    with patch.object(checkpoint_saver, "warn"):
        one.save(weights(1), {"step": 1, "evaluation": {}}, 1)
        one.finish()
        told.append(one.due())
        time.sleep(1.1)
        told.append(one.due())
    return told


def test_a_save_that_failed_is_due_again_soon(folder, tmp_path):
    with support.tmpfs(tmp_path / "disk", "900k"):
        assert ranks.on_ranks(2, retry, folder, str(tmp_path / "disk")) == [[False, True]] * 2


def stall(process, folder, place):
    """A save is not over for long: one that comes meanwhile is left out, and the newest state is saved afterwards."""
    from launcher.train import checkpoint_saver

    run, warnings, release = strategy_steps.build(process, folder, {"kind": "ddp"}), [], Path(place, "release")
    one, told = saver(run, Path(place, "run")), []
    checkpoint_saver.STALL_SECONDS = 0.5
    with patch.object(checkpoint_saver, "warn", warnings.append), held(release):
        one.save(weights(1), {"step": 1, "evaluation": {}}, 2)
        one.save(weights(2), {"step": 2, "evaluation": {}}, 2)
        told += [one.step, one.due()]
        process.barrier()
        release.touch()
        one.finish()
        told += [one.step, one.due()]
        one.save(weights(3), {"step": 3, "evaluation": {}}, 2)
        one.finish()
        told += [one.step, one.due(), steps(RunDir(Path(place, "run")))]
    return told, warnings


def test_a_disk_that_does_not_respond_holds_up_no_step_for_long(folder, tmp_path):
    first, second = ranks.on_ranks(2, stall, folder, str(tmp_path))
    assert first[0] == second[0] == [1, False, 1, True, 3, False, [1, 3]]
    assert second[1] == []
    (warning,) = first[1]
    place = re.escape(f"{tmp_path}/run/checkpoints")
    assert re.fullmatch(
        rf"warning: the checkpoint of step 1 has been written into {place} for [\d.]+ s and is not complete; "
        "there is none before it; training goes on meanwhile",
        warning,
    )


def last(process, folder, disk, room):
    """The last save of a start on a full disk, on which there is room after the second attempt, or never. Each
    attempt beats, so that it is no hang."""
    from launcher.distributed.heartbeat import Heartbeat, Stage
    from launcher.storage.disk_full import DiskFull
    from launcher.train import checkpoint_saver

    run, warnings = strategy_steps.build(process, folder, {"kind": "ddp"}), []
    one, heartbeat, beats = saver(run, Path(disk, "run"), keep=1), Heartbeat(), set()
    heartbeat.beat(Stage.SAVING, 7)
    checkpoint_saver.PATIENCE_SECONDS, checkpoint_saver.LAST_RETRY_SECONDS = (60.0, 0.2) if room else (1.0, 0.4)

    def warn(line):
        warnings.append(line)
        assert heartbeat.position.time not in beats and heartbeat.position.stage is Stage.SAVING
        beats.add(heartbeat.position.time)
        if room and len(warnings) == 2:
            remount("size=9m", disk)

    with patch.object(checkpoint_saver, "warn", warn):
        try:
            one.save_last(weights(7), {"step": 7, "evaluation": {}}, 1, heartbeat)
        except DiskFull as error:
            return str(error), steps(RunDir(Path(disk, "run"))), len(warnings)
    return "", steps(RunDir(Path(disk, "run"))), len(warnings)


@pytest.mark.parametrize("room", [True, False])
def test_the_last_state_is_tried_again_and_again_and_only_then_the_run_fails(folder, tmp_path, room):
    with support.tmpfs(tmp_path / "disk", "900k"):
        first, second = ranks.on_ranks(2, last, folder, str(tmp_path / "disk"), room)
        assert first[:2] == second[:2]
        if room:
            assert first == ("", [7], 2)
        else:
            assert first[0].startswith(f"the disk of {tmp_path}/disk/run/checkpoints is full: about 1.1 MiB are needed")
            assert first[1] == [] and first[2] >= 1
            assert list(RunDir(tmp_path / "disk/run").checkpoints.iterdir()) == []
