"""Folders named by their content: one makes them, the others wait, and they are there whole or not at all."""

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from prepare.workers import said, until

from launcher.storage import cache, cache_root, lease

# Makes the folder "x", told how by the files in its own folder; a line in `made` for each who begins to.
MAKER = """
import os, time
from pathlib import Path
from launcher.distributed import logs
from launcher.storage import cache, cache_root, lease

logs.set_up()
lease.BEAT, lease.SILENCE = 0.05, 0.6
try:
    with cache.making("x") as making:
        if making is not None:
            (making.work / "shard").write_text("finished")
            (making.whole / "half").write_text("half")
            with Path("made").open("a") as out:
                out.write(f"{os.getpid()}\\n")
            while not Path("go").exists():
                time.sleep(0.01)
            (making.whole / "half").rename(making.whole / "whole")
    print(sorted(p.name for p in cache_root.prepared("x").iterdir()))
except lease.LeaseLost:
    print("lost")
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A cache of one's own, and a quick heart."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "SILENCE", 0.6)


def began():
    return Path("made").read_text().split() if Path("made").exists() else []


def left():
    """What is in the cache beside whole folders."""
    return sorted(path.name for path in cache_root.prepared("x").parent.glob(".*"))


def ended(*makers):
    told = [maker.communicate(timeout=60)[0].strip() for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * len(makers), said()
    return told


def test_what_is_made_gets_its_name_when_it_is_whole():
    with cache.making("x") as making:
        (making.whole / "deep").mkdir()
        (making.whole / "deep" / "file").write_text("content")
        (making.work / "shard").write_text("finished")
        assert not cache_root.prepared("x").exists()
    assert (cache_root.prepared("x") / "deep" / "file").read_text() == "content"
    assert left() == []


def test_what_is_there_is_not_made_again():
    for _ in range(2):
        with cache.making("x") as making:
            if making is not None:
                (making.whole / "first").touch()
    assert making is None
    assert [p.name for p in cache_root.prepared("x").iterdir()] == ["first"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_but_finished_work_and_the_next_one_may_try(error):
    with pytest.raises(error), cache.making("x") as making:
        (making.whole / "half").touch()
        (making.work / "shard").touch()
        raise error
    assert not cache_root.prepared("x").exists()
    assert left() == [".x.work"]
    with cache.making("x") as making:
        assert list(making.whole.iterdir()) == []
        assert [path.name for path in making.work.iterdir()] == ["shard"]
    assert cache_root.prepared("x").is_dir()
    assert left() == []


def test_half_written_files_of_the_one_before_are_taken_away():
    with pytest.raises(ValueError, match=r"^stop$"), cache.making("x") as making:
        (making.work / ".123.shard").touch()
        (making.work / ".folder").mkdir()
        raise ValueError("stop")
    with cache.making("x") as making:
        assert [path.name for path in making.work.iterdir()] == [".folder"]


def test_work_that_is_of_no_use_is_forgotten():
    with pytest.raises(ValueError, match=r"^stop$"), cache.making("x") as making:
        making.forget()
        raise ValueError("stop")
    assert left() == []


def test_work_of_another_is_not_forgotten():
    with pytest.raises(lease.LeaseLost), cache.making("x") as making:
        taken_over(making).release()
        making.forget()
    assert left() == [".x.lease-000001", ".x.work"]


def test_two_names_are_made_beside_each_other():
    with cache.making("x") as one, cache.making("y") as other:
        (one.whole / "file").touch()
        (other.whole / "file").touch()
    assert cache_root.prepared("x").is_dir()
    assert cache_root.prepared("y").is_dir()


def taken_over(making):
    """As if this process had been silent for too long, and the other had not noticed its end yet."""
    making.lease._over.set()
    made = lease._take(cache_root.prepared("x").parent / ".x.lease-000002")
    (making.whole.parent / ".x.lease-000001").write_bytes(lease.read(made._file).line())
    return made


def test_who_was_taken_over_leaves_the_others_folder_alone():
    with pytest.raises(lease.LeaseLost), cache.making("x") as making:
        (making.whole / "old").touch()
        other = taken_over(making)
        whole = cache_root.prepared("x").with_name(".x.whole-000002")
        whole.mkdir()
        (whole / "new").touch()
    assert not cache_root.prepared("x").exists()
    assert (whole / "new").exists()
    assert not making.whole.exists()
    other.check()
    other.release()


def test_who_was_taken_over_knows_why_a_file_is_missing():
    with pytest.raises(lease.LeaseLost), cache.making("x") as making:
        other = taken_over(making)
        shutil.rmtree(making.work)
        (making.work / "shard").touch()
    other.release()


def test_who_was_taken_over_and_is_late_takes_what_the_other_made():
    with cache.making("x") as making:
        (making.whole / "late").touch()
        other = taken_over(making)
        cache_root.prepared("x").mkdir()
        (cache_root.prepared("x") / "first").touch()
        other.release()
        cache.sweep("x")
        (making.work / "shard").touch()  # fails: the work is swept up
    assert [path.name for path in cache_root.prepared("x").iterdir()] == ["first"]
    assert left() == []


def test_threads_make_it_once():
    made = []

    def make():
        with cache.making("x") as making:
            if making is not None:
                made.append((making.whole / "file").touch())

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert left() == []


def test_one_of_three_processes_makes_it_and_the_others_wait_and_say_for_whom(start):
    makers = [start(MAKER) for _ in range(3)]
    until(lambda: said().count("waiting for process") == 2, *makers)
    Path("go").touch()
    assert ended(*makers) == ["['whole']"] * 3
    (pid,) = began()
    assert said().count(f"waiting for process {pid} on ") == 2
    assert int(pid) in [maker.pid for maker in makers]
    assert left() == []


def test_a_maker_that_is_killed_leaves_nothing_in_the_way(start):
    killed = start(MAKER)
    until(began, killed)
    waiting = start(MAKER)
    until(lambda: "waiting for process" in said(), waiting)
    killed.kill()
    Path("go").touch()
    assert ended(waiting) == ["['whole']"]
    assert began() == [str(killed.pid), str(waiting.pid)]
    assert left() == []


def test_what_a_killed_maker_had_finished_is_there_and_what_it_had_half_is_not(start):
    killed = start(MAKER)
    until(began, killed)
    killed.kill()
    killed.wait()
    assert not cache_root.prepared("x").exists()
    with cache.making("x") as making:
        assert list(making.whole.iterdir()) == []
        assert (making.work / "shard").read_text() == "finished"
        (making.whole / "new").touch()
    assert [p.name for p in cache_root.prepared("x").iterdir()] == ["new"]
    assert left() == []


def test_a_stopped_maker_that_goes_on_takes_what_the_other_made(start):
    stopped = start(MAKER)
    until(began, stopped)
    os.kill(stopped.pid, signal.SIGSTOP)
    other = start(MAKER)
    until(lambda: len(began()) == 2, other)
    Path("go").touch()
    assert ended(other) == ["['whole']"]
    os.kill(stopped.pid, signal.SIGCONT)
    assert ended(stopped) == ["['whole']"]
    assert left() == []


def test_a_stopped_maker_that_goes_on_before_the_other_is_done_is_lost(start):
    stopped = start(MAKER)
    until(began, stopped)
    os.kill(stopped.pid, signal.SIGSTOP)
    with cache.making("x") as making:
        os.kill(stopped.pid, signal.SIGCONT)
        Path("go").touch()
        assert ended(stopped) == ["lost"]
        (making.whole / "new").touch()
    assert [p.name for p in cache_root.prepared("x").iterdir()] == ["new"]
    assert left() == []


def test_sweeping_leaves_other_names_alone():
    with cache.making("x") as making:
        cache.sweep("other")
        (making.whole / "file").touch()
    assert [p.name for p in cache_root.prepared("x").iterdir()] == ["file"]
