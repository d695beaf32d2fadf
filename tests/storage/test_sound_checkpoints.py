"""Damaged checkpoints are passed over by those who ask for the newest one, and refused to all others."""

import json
import logging
from pathlib import Path

import pytest
from storage.test_run_dir import checkpoint

from launcher.config.errors import UserError
from launcher.config.paths import COMPLETE
from launcher.config.strict_json import DamagedFile
from launcher.config.training import Checkpoint
from launcher.storage import checkpoint_format, sound_checkpoints
from launcher.storage.checkpoint_format import NewerFormat, SavedCheckpoint
from launcher.storage.run_dir import RunDir

HINT = "(a resume uses the checkpoint before it; --checkpoint STEP names another one)"


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    run = RunDir(Path("runs/tiny"))
    for step, loss in ((2, 1.0), (4, 2.0), (6, 3.0)):
        checkpoint(run, step, loss)
    return run


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def tensors(run: RunDir, step: int) -> Path:
    return run.checkpoints / f"step-{step:08d}" / "model.safetensors"


def test_the_latest_is_the_newest_undamaged_one_with_a_warning(run, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "launcher")
    monkeypatch.setattr(logging.getLogger("launcher"), "propagate", True)
    assert sound_checkpoints.verified(run, "latest").step == 6
    assert caplog.messages == []
    flip(tensors(run, 6))
    tensors(run, 4).write_bytes(b"")
    assert sound_checkpoints.verified(run, "latest").step == 2
    (told,) = caplog.messages
    assert told == (
        f"{tensors(run, 6)}: damaged: its content is not what was written {HINT}; {tensors(run, 4)}: damaged: "
        f"its content is not what was written: 0 bytes instead of 64 {HINT}: step 2 is used"
    )


@pytest.mark.parametrize(("which", "step"), [(4, 4), ("best", 2)])
def test_a_checkpoint_that_was_asked_for_is_refused(run, which, step):
    assert sound_checkpoints.verified(run, which).step == step
    flip(tensors(run, step))
    with pytest.raises(DamagedFile, match=f"step-0000000{step}/model.safetensors: damaged"):
        sound_checkpoints.verified(run, which)


def test_all_damaged_ones_are_listed(run):
    for step in (2, 4, 6):
        (tensors(run, step).with_name("state.json")).write_text("{")
    for look in (lambda: sound_checkpoints.verified(run, "latest"), lambda: sound_checkpoints.resumable(run, 9)):
        with pytest.raises(DamagedFile) as told:
            look()
        assert len(told.value.problems) == 4
        assert str(told.value.problems[-1]).startswith("runs/tiny/checkpoints: every checkpoint is damaged")


def test_a_start_reads_no_tensors_unless_nothing_is_left_to_train(run):
    flip(tensors(run, 6))
    assert sound_checkpoints.resumable(run, 9).step == 6  # its ranks will find it
    assert sound_checkpoints.resumable(run, 6).step == 4
    tensors(run, 6).write_bytes(b"")
    assert sound_checkpoints.resumable(run, 9).step == 4
    assert sound_checkpoints.resumable(RunDir(Path("runs/none")), 9) is None


def test_a_damaged_checkpoint_that_is_set_aside_is_neither_loaded_nor_kept_nor_removed(run):
    aside = SavedCheckpoint(tensors(run, 6).parent).set_aside()
    assert aside.name == "step-00000006.damaged" and (aside / COMPLETE).exists()
    checkpoint(run, 6)
    assert SavedCheckpoint(tensors(run, 6).parent).set_aside().name == "step-00000006.damaged-2"
    assert [saved.step for saved in run.whole()] == [2, 4]
    assert run.half_written() == run.superseded(Checkpoint(keep=2)) == []


@pytest.mark.parametrize("content", ['{"format": 2, "files": {"a": [1, "x"]}}', '{"format": 9, "parts": []}'])
def test_a_newer_format_is_refused_and_not_passed_over(run, content):
    (tensors(run, 6).with_name(COMPLETE)).write_text(content)
    for look in (
        lambda: sound_checkpoints.verified(run, "latest"), lambda: sound_checkpoints.resumable(run, 9),
        lambda: sound_checkpoints.verified(run, 6),
    ):  # fmt: skip
        with pytest.raises(NewerFormat, match="a newer version of the launcher wrote it") as told:
            look()
        assert not isinstance(told.value, DamagedFile)
        assert len(str(told.value).splitlines()) == 1


def test_the_format_that_is_written_today_is_read(run):
    mark = tensors(run, 6).with_name(COMPLETE)
    mark.write_text(json.dumps({"format": checkpoint_format.FORMAT, **json.loads(mark.read_text())}))
    SavedCheckpoint(mark.parent).verify()
    mark.write_text(mark.read_text().replace('"format": 1', '"format": "x"'))
    with pytest.raises(DamagedFile, match="COMPLETE: damaged"):
        SavedCheckpoint(mark.parent).verify()


def test_a_file_of_tensors_that_no_save_wrote_is_found(run):
    """torch would read it beside the others."""
    extra = tensors(run, 6).with_name("shard-99999-model-00001-of-00001.safetensors")
    extra.write_bytes(b"x")
    with pytest.raises(DamagedFile, match=f"{extra}: damaged: not one of the files in COMPLETE"):
        SavedCheckpoint(extra.parent).verify()


@pytest.mark.parametrize("shares", [1, 2, 3, 8])
def test_shares_hold_every_file_once_and_are_about_equal(shares):
    files = {f"f{i}": (size, "x") for i, size in enumerate((70, 10, 50, 20, 40, 30, 60))}
    parts = [checkpoint_format._share(files, index, shares) for index in range(shares)]
    assert sorted(name for part in parts for name in part) == sorted(files)
    sizes = [sum(files[name][0] for name in part) for part in parts]
    assert max(sizes) - min(sizes) <= 70 if shares > 3 else max(sizes) - min(sizes) <= 10


@pytest.mark.parametrize("wrong", ["file", "folder without rights"])
def test_a_checkpoint_folder_that_cannot_be_read_holds_none(run, wrong, tmp_path):
    import shutil

    shutil.rmtree(run.checkpoints)
    run.checkpoints.touch()
    with pytest.raises(UserError, match="no whole checkpoint in it"):
        sound_checkpoints.verified(run, "latest")
    assert sound_checkpoints.resumable(run, 9) is None
