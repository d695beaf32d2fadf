"""The folder of copies in memory: files that safetensors reads, and nothing that others could plant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import support
import torch
from safetensors.torch import load_file

from launcher.storage import memory_copy_format as form
from launcher.storage.memory_copy_format import Mark, MemoryFolder, Piece, UnusableFolder
from launcher.storage.run_dir import RunDir

STATE = {"step": 4, "evaluation": {"eval/loss": float("inf")}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place, run = tmp_path / "memory", tmp_path / "run"
    place.mkdir()
    run.mkdir()
    monkeypatch.setenv("LAUNCHER_MEMORY", str(place))
    return MemoryFolder(run, form.run_id(RunDir(run), create=True))


def mark(rank=0, step=4, **changes):
    known = {
        "step": step, "rank": rank, "layout": "l", "pieces": [0], "total": 1, "shapes": {"a": [2]}, "size": 8,
        "checksum": "", "state": {**STATE, "step": step},
    }  # fmt: skip
    return Mark(**{**known, **changes})


def test_safetensors_reads_a_file(folder):
    folder.create()
    slot = folder.slot(0, 0)
    header = form.header({"a": Piece("F64", (2, 1), 16), "b@1": Piece("BF16", (3,), 6), "c": Piece("F32", (), 4)})
    content = slot.map(len(header) + 26)
    content[: len(header)] = header
    content[len(header) : len(header) + 16] = torch.tensor([1.5, -2.0], dtype=torch.float64).numpy().tobytes()
    found = load_file(slot.file)
    assert found["a"].equal(torch.tensor([[1.5], [-2.0]], dtype=torch.float64))
    assert found["b@1"].equal(torch.zeros(3, dtype=torch.bfloat16)) and found["c"].shape == ()
    assert len(header) % 64 == 0 and slot.file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_does_not_fit_is_not_begun(folder):
    with support.tmpfs(form.root(), "256k"):
        folder.create()
        slot = folder.slot(0, 0)
        with pytest.raises(OSError):
            slot.map(1 << 20)
        assert not slot.file.exists()
        assert len(slot.map(1 << 16)) == 1 << 16


def test_a_mark_comes_back_as_it_was_and_a_damaged_one_is_none(folder):
    folder.create()
    slot = folder.slot(0, 1)
    assert slot.read() is None
    slot.complete(mark())
    assert slot.read() == mark() == Mark.of(mark().text().encode())
    text = slot.mark.read_text()
    for damaged in ("", text[:-2], text.replace('"total": 1', '"total": -1'), text.replace('"step": 4', '"step": "4"')):
        slot.mark.write_text(damaged)
        assert slot.read() is None
    slot.complete(mark(rank=1))
    assert slot.read() is None  # of another file
    slot.invalidate()
    os.mkfifo(slot.mark)
    assert slot.read() is None


def test_the_slot_with_the_kept_step_is_not_overwritten(folder):
    folder.create()
    assert folder.slot_but(0, None) == folder.slot_but(0, 2) == folder.slot(0, 0)
    folder.slot(0, 0).complete(mark(step=2))
    assert folder.slot_but(0, 2) == folder.slot(0, 1)
    folder.slot(0, 1).complete(mark(step=4))
    assert folder.slot_but(0, 4) == folder.slot(0, 0)


def test_only_the_copies_of_one_step_stay(folder):
    folder.create()
    for rank, number, step in [(0, 0, 2), (0, 1, 4), (1, 0, 4), (1, 1, 6)]:
        folder.slot(rank, number).file.write_bytes(b"x")
        folder.slot(rank, number).complete(mark(rank, step))
    folder.slot(2, 0).file.write_bytes(b"x")
    assert [(m.rank, m.step) for _, m in folder.marks("l")] == [(0, 2), (0, 4), (1, 4), (1, 6)]
    assert folder.marks("another layout") == []
    folder.keep_only(4)
    assert [(m.rank, m.step) for _, m in folder.marks("l")] == [(0, 4), (1, 4)]
    assert len(list(folder.path.glob("*.safetensors"))) == 2
    folder.keep_only(None)
    assert [file.name for file in folder.path.iterdir()] == ["owner.json"]
    folder.remove()
    assert list(form.root().iterdir()) == []


@pytest.mark.parametrize("planted", ["a link", "open to others", "of another user", "a file"])
def test_what_another_user_planted_is_refused(folder, tmp_path, planted):
    if planted == "a link":
        folder.path.symlink_to(tmp_path)
    elif planted == "a file":
        folder.path.write_text("")
    else:
        folder.path.mkdir(mode=0o700)
        if planted == "open to others":
            folder.path.chmod(0o770)
        elif os.getuid() == 0:
            os.chown(folder.path, 12345, 12345)
        else:
            pytest.skip("only root gives a folder to another user")
    with pytest.raises(UnusableFolder, match=r"remove it|cannot be created"):
        folder.create()


def test_a_place_in_which_others_can_replace_it_is_refused(folder):
    form.root().chmod(0o777)
    with pytest.raises(UnusableFolder, match="other users can replace"):
        folder.create()
    form.root().chmod(0o1777)
    folder.create()
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_run_with_the_name_of_a_deleted_one_has_another_folder(folder):
    folder.create()
    run = RunDir(folder.run)
    assert form.run_id(run, create=False) == form.run_id(run, create=True) == folder.id
    form.sweep()
    assert folder.path.is_dir()
    Path(folder.run, "memory.id").write_text("nonsense")
    assert form.run_id(run, create=False) is None
    anew = MemoryFolder(folder.run, form.run_id(run, create=True))
    assert anew.path != folder.path
    anew.create()
    form.sweep()
    assert list(form.root().iterdir()) == [anew.path]


def test_a_rank_of_another_start_that_still_lives_keeps_its_files(folder, monkeypatch):
    monkeypatch.setattr(form, "_LOCK_SECONDS", 0.3)
    folder.create()
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2); print(1, flush=True); time.sleep(99)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, folder.path / "rank-00001.lock"], stdout=subprocess.PIPE)
    other.stdout.readline()
    folder.lock(0)
    with pytest.raises(UnusableFolder, match="rank 1 of another start still uses"):
        folder.lock(1)
    other.kill()
    other.communicate()
    folder.lock(1)


def test_copies_that_do_not_fit_are_refused_with_what_to_do(folder):
    gib = 2**30
    assert form.misfit(4 * gib, 5 * gib, 8 * gib) == ""
    assert "take 6.0 GiB of each node, 5.0 GiB are free at" in form.misfit(6 * gib, 5 * gib, 64 * gib)
    assert "more than 50% of its 8.0 GiB" in form.misfit(5 * gib, 6 * gib, 8 * gib)
