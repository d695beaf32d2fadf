"""Folders that are filled beside their place, by one process or several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.storage.partial_folder import filling

KILLED = """
import os, signal, sys
from pathlib import Path
from launcher.storage.partial_folder import filling
with filling(Path("out")) as aside:
    (aside / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_flushed_then_renamed(here, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").readlink()))
    with filling(here / "a/out") as aside:
        (aside / "inner").mkdir()
        (aside / "inner/file").write_text("x")
        name = aside.name
        assert not (here / "a/out").exists()
    assert sorted(os.path.relpath(path, here / "a" / name) for path in flushed) == [".", "inner", "inner/file"]
    assert [path.name for path in (here / "a").iterdir()] == ["out"]


def test_an_empty_folder_is_taken_and_a_full_one_is_not(here):
    (here / "out").mkdir()
    with filling(here / "out") as aside:
        (aside / "first").touch()
    with pytest.raises(OSError, match="not empty"), filling(here / "out") as aside:
        (aside / "second").touch()
    assert [path.relative_to(here).as_posix() for path in here.rglob("*")] == ["out", "out/first"]


def test_two_fill_the_same_and_the_first_to_end_has_it(here):
    with pytest.raises(OSError, match="not empty"), filling(here / "out") as slow:
        (slow / "slow").touch()
        with filling(here / "out") as fast:
            (fast / "fast").touch()
        assert [path.name for path in slow.iterdir()] == ["slow"]
    assert [path.relative_to(here).as_posix() for path in here.rglob("*")] == ["out", "out/fast"]


def test_what_killed_processes_left_is_removed_and_what_others_fill_is_not(here):
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = here.iterdir()
    assert (left / "half").exists()
    elsewhere = here / ".out.00000000-1-00000000.partial"
    elsewhere.mkdir()
    (here / ".out.partial").mkdir()
    (here / f".outer.{left.name.removeprefix('.out.')}").mkdir()
    kept = {path.name for path in here.iterdir()} - {left.name}
    with filling(here / "out"):
        pass
    assert {path.name for path in here.iterdir()} == {*kept, "out"}


def test_a_failure_leaves_nothing(here):
    with pytest.raises(KeyError), filling(here / "out") as aside:
        (aside / "half").touch()
        raise KeyError
    assert list(here.iterdir()) == []
