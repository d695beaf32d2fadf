"""The folder of copies in memory: what stays in it, and nothing that others could plant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.storage import memory_folder
from launcher.storage.memory_copy_format import Mark
from launcher.storage.memory_folder import MemoryFolder, UnusableFolder
from launcher.storage.run_dir import RunDir

STATE = {"step": 4, "evaluation": {"eval/loss": float("inf")}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place, run = tmp_path / "memory", tmp_path / "run"
    place.mkdir()
    run.mkdir()
    monkeypatch.setenv("LAUNCHER_MEMORY", str(place))
    return MemoryFolder(run, memory_folder.run_id(RunDir(run), create=True))


def mark(rank=0, step=4, **changes):
    known = {
        "step": step, "rank": rank, "layout": "l", "pieces": [0], "total": 1, "shapes": {"a": [2]}, "size": 8,
        "checksum": "", "state": {**STATE, "step": step},
    }  # fmt: skip
    return Mark(**{**known, **changes})


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
    assert list(memory_folder.root().iterdir()) == []


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
    memory_folder.root().chmod(0o777)
    with pytest.raises(UnusableFolder, match="other users can replace"):
        folder.create()
    memory_folder.root().chmod(0o1777)
    folder.create()
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_run_with_the_name_of_a_deleted_one_has_another_folder(folder):
    folder.create()
    run = RunDir(folder.run)
    assert memory_folder.run_id(run, create=False) == memory_folder.run_id(run, create=True) == folder.id
    memory_folder.sweep()
    assert folder.path.is_dir()
    Path(folder.run, "memory.id").write_text("nonsense")
    assert memory_folder.run_id(run, create=False) is None
    anew = MemoryFolder(folder.run, memory_folder.run_id(run, create=True))
    assert anew.path != folder.path
    anew.create()
    memory_folder.sweep()
    assert list(memory_folder.root().iterdir()) == [anew.path]


def test_a_rank_of_another_start_that_still_lives_keeps_its_files(folder, monkeypatch):
    monkeypatch.setattr(memory_folder, "_LOCK_SECONDS", 0.3)
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
    assert memory_folder.misfit(4 * gib, 5 * gib, 8 * gib) == ""
    assert "take 6.0 GiB of each node, 5.0 GiB are free at" in memory_folder.misfit(6 * gib, 5 * gib, 64 * gib)
    assert "more than 50% of its 8.0 GiB" in memory_folder.misfit(5 * gib, 6 * gib, 8 * gib)


def test_the_newest_copy_is_one_with_all_pieces_of_a_layout(folder):
    run = RunDir(folder.run)
    assert memory_folder.newest_step(run) is None
    folder.create()
    for rank, number, step in [(0, 0, 4), (1, 0, 4), (0, 1, 6)]:
        folder.slot(rank, number).complete(mark(rank, step, pieces=[rank], total=2))
    folder.slot(1, 1).complete(mark(1, 6, pieces=[1], total=2, layout="another"))
    assert memory_folder.newest_step(run) == 4
    folder.slot(1, 1).complete(mark(1, 6, pieces=[1], total=2))
    assert memory_folder.newest_step(run) == 6
