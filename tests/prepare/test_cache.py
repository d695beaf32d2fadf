"""Folders named by their content: one makes them, the others wait, and they are there whole or not at all."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.prepare import cache

# makes the folder "x", told how by the files in its own folder; a line in `made` for each who begins to
MAKER = """
import os, sys, time
from pathlib import Path
from launcher.prepare import cache

with cache.making("x") as folder:
    if folder is not None:
        with Path("made").open("a") as out:
            out.write(f"{os.getpid()}\\n")
        (folder / "half").write_text("half")
        while not Path("go").exists():
            time.sleep(0.01)
        (folder / "half").rename(folder / "whole")
print(sorted(p.name for p in cache.path("x").iterdir()))
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A cache of one's own."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def maker():
    with Path(f"stderr-{time.monotonic_ns()}").open("w") as errors:
        return subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, stderr=errors)


def until(true, *processes, seconds=60):
    """Wait for something to come true, as long as a process that could do it lives."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        assert any(process.poll() is None for process in processes), "all processes ended"
        time.sleep(0.01)


def said():
    return "".join(file.read_text() for file in Path().glob("stderr-*"))


def left():
    """What is in the cache beside whole folders and locks nobody holds."""
    return [p.name for p in cache.path("x").parent.iterdir() if p.suffix != ".lock" and p.name != "x"]


def test_what_is_made_gets_its_name_when_it_is_whole():
    with cache.making("x") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
        assert not cache.path("x").exists()
    assert (cache.path("x") / "deep" / "file").read_text() == "content"
    assert left() == []


def test_what_is_there_is_not_made_again():
    for _ in range(2):
        with cache.making("x") as folder:
            if folder is not None:
                (folder / "first").touch()
    assert folder is None
    assert [p.name for p in cache.path("x").iterdir()] == ["first"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_and_the_next_one_may_try(error):
    with pytest.raises(error), cache.making("x") as folder:
        (folder / "half").touch()
        raise error
    assert not cache.path("x").exists()
    assert left() == []
    with cache.making("x") as folder:
        assert list(folder.iterdir()) == []
    assert cache.path("x").is_dir()


def test_two_names_are_made_beside_each_other():
    with cache.making("x") as one, cache.making("y") as other:
        (one / "file").touch()
        (other / "file").touch()
    assert cache.path("x").is_dir()
    assert cache.path("y").is_dir()


def test_one_of_three_makes_it_and_the_others_wait_and_say_for_whom(own):
    makers = [maker() for _ in range(3)]
    until(lambda: said().count("waiting for process") == 2, *makers)
    Path("go").touch()
    assert [m.communicate()[0].decode().strip() for m in makers] == ["['whole']"] * 3
    assert [m.returncode for m in makers] == [0, 0, 0]
    (pid,) = Path("made").read_text().split()
    assert said().count(f"waiting for process {pid} on ") == 2
    assert int(pid) in [m.pid for m in makers]
    assert left() == []


def test_a_maker_that_is_killed_leaves_nothing_in_the_way(own):
    killed = maker()
    until(Path("made").exists, killed)
    waiting = maker()
    until(lambda: "waiting for process" in said(), waiting)
    killed.kill()
    killed.wait()
    Path("go").touch()
    assert waiting.communicate()[0].decode().strip() == "['whole']"
    assert Path("made").read_text().split() == [str(killed.pid), str(waiting.pid)]
    assert left() == []


def test_what_a_killed_maker_left_is_not_taken_for_whole(own):
    killed = maker()
    until(Path("made").exists, killed)
    killed.kill()
    killed.wait()
    assert not cache.path("x").exists()
    with cache.making("x") as folder:
        assert list(folder.iterdir()) == []
        (folder / "new").touch()
    assert [p.name for p in cache.path("x").iterdir()] == ["new"]
    assert left() == []
