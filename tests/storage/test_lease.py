"""A lease: one holder at a time, whatever becomes of the others."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from prepare.workers import said, until

from launcher.storage import lease, lease_file

FAST = """
from launcher.distributed import logs
from launcher.storage import lease

logs.set_up()
lease.BEAT, lease.SILENCE = 0.05, 0.6
"""

# Takes the lease, adds its number and process to `held`, gives it back when `go` is there, and tells what came of it.
HOLDER = (
    FAST
    + """
import os, time
from pathlib import Path

held = lease.acquire(Path(), "x", Path("done"), "work")
with Path("held").open("a") as out:
    out.write(f"{held.number} {os.getpid()}\\n")
while not Path("go").exists():
    time.sleep(0.01)
try:
    held.check()
    print("mine")
except lease.LeaseLost:
    print("lost")
held.release()
"""
)

# Adds 1 to a number in a file a few times, each time in two steps that another must not come between.
COUNTER = (
    FAST
    + """
import sys, time
from pathlib import Path

for _ in range(int(sys.argv[1])):
    held = lease.acquire(Path(), "x", Path("done"), "count")
    seen = int(Path("count").read_text())
    time.sleep(0.02)
    held.check()
    Path("count").write_text(str(seen + 1))
    held.release()
"""
)


@pytest.fixture(autouse=True)
def fast(tmp_path, monkeypatch):
    """A folder of one's own, and a quick heart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "SILENCE", 0.6)


def acquire(what="work"):
    return lease.acquire(Path(), "x", Path("done"), what)


def holders():
    """The number and process of each that has held it."""
    return [tuple(map(int, line.split())) for line in Path("held").read_text().splitlines()]


def held_by(count):
    return lambda: Path("held").is_file() and len(holders()) == count


def files():
    return sorted(Path().glob("x.lease-*"))


def elsewhere(**changes):
    """The file of a holder on another machine."""
    made = lease.Holder(**{**vars(lease.Holder.this()), "here": "another machine", "host": "elsewhere", **changes})
    Path("x.lease-000007").write_bytes(made.line())
    return made


def taken_after():
    begin = time.monotonic()
    held = acquire()
    took = time.monotonic() - begin
    held.release()
    return held.number, took


def test_only_one_thread_holds_it():
    inside, most = [], []

    def work():
        held = acquire()
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        held.release()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    assert files() == []


def test_only_one_process_holds_it(start):
    Path("count").write_text("0")
    counters = [start(COUNTER, 5) for _ in range(3)]
    assert [counter.wait(60) for counter in counters] == [0, 0, 0]
    assert Path("count").read_text() == "15"
    assert files() == []


def test_who_waits_tells_once_for_whom(caplog):
    caplog.set_level("INFO")
    held, made = acquire(), []
    waiting = threading.Thread(target=lambda: made.append(acquire("prepare the data")))
    waiting.start()
    time.sleep(2 * lease.SILENCE)  # a beating heart is waited for, however long
    assert made == []
    held.release()
    waiting.join()
    assert [record.getMessage().partition(" on ")[0] for record in caplog.records] == [
        f"waiting for process {os.getpid()}"
    ]
    made[0].release()


def test_what_is_told_names_process_machine_and_work(caplog):
    caplog.set_level("INFO")
    holder = elsewhere(pid=77)
    taken_after()
    assert str(holder) == "process 77 on elsewhere"
    assert caplog.messages == ["waiting for process 77 on elsewhere to work"]


def test_who_waits_leaves_when_it_is_done():
    held, made = acquire(), [0]
    waiting = threading.Thread(target=lambda: made.append(acquire()))
    waiting.start()
    Path("done").touch()
    waiting.join()
    held.release()
    assert made == [0, None]
    assert acquire() is None


def test_whoever_takes_it_after_it_was_done_gives_it_back(monkeypatch):
    """The holder before finished and swept up between the look for `done` and the look for a holder."""
    newest = lease._newest

    def finished_just_now(*arguments):
        Path("done").touch()
        return newest(*arguments)

    monkeypatch.setattr(lease, "_newest", finished_just_now)
    assert acquire() is None
    assert files() == []


def test_it_is_given_back_once_and_the_next_one_has_it_at_once():
    for _ in range(3):
        number, took = taken_after()
        assert number == 1
        assert took < lease.SILENCE / 2


def test_two_names_are_two_leases():
    one, other = acquire(), lease.acquire(Path(), "y", Path("done"), "work")
    one.check()
    other.check()
    one.release()
    other.check()
    other.release()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_on_this_machine_is_taken_over_at_once(start, monkeypatch, reaped):
    """Also while the one that started it has not noticed."""
    monkeypatch.setattr(lease, "SILENCE", 30.0)
    killed = start(HOLDER)
    until(held_by(1), killed)
    killed.kill()
    if reaped:
        killed.wait()
    number, took = taken_after()
    assert number == 2
    assert took < 3


def test_another_process_of_the_same_number_is_not_the_holder():
    holder = lease.Holder.this()
    assert not holder.dead()
    assert lease.Holder(**{**vars(holder), "born": holder.born - 1}).dead()


def test_a_stopped_holder_is_taken_over_after_its_silence_and_knows(start):
    stopped = start(HOLDER)
    until(held_by(1), stopped)
    os.kill(stopped.pid, signal.SIGSTOP)
    begin = time.monotonic()
    held = acquire()
    assert time.monotonic() - begin >= lease.SILENCE
    assert held.number == 2
    os.kill(stopped.pid, signal.SIGCONT)
    Path("go").touch()
    assert stopped.communicate(timeout=60)[0] == "lost\n"
    held.check()  # what the other one gives back is not this one's
    held.release()


def test_a_stopped_holder_that_goes_on_in_time_keeps_it(start):
    stopped = start(HOLDER)
    until(held_by(1), stopped)
    waiting = start(HOLDER)
    until(lambda: "waiting for process" in said(), waiting)
    for _ in range(3):
        os.kill(stopped.pid, signal.SIGSTOP)
        time.sleep(lease.SILENCE / 3)
        os.kill(stopped.pid, signal.SIGCONT)
        time.sleep(5 * lease.BEAT)
    assert len(holders()) == 1
    Path("go").touch()
    assert stopped.communicate(timeout=60)[0] == waiting.communicate(timeout=60)[0] == "mine\n"
    assert holders() == [(1, stopped.pid), (1, waiting.pid)]


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 200, b"[]", b'{"host": "x"}', b"\xff\xfe"])
def test_a_damaged_file_is_taken_over_after_the_silence(content):
    Path("x.lease-000003").write_bytes(content)
    number, took = taken_after()
    assert number == 4
    assert took >= lease.SILENCE


def test_a_holder_on_another_machine_is_dead_only_by_its_silence():
    assert not elsewhere(pid=2**22 + 1).dead()
    number, took = taken_after()
    assert number == 8
    assert took >= lease.SILENCE


def test_the_beats_of_another_machine_are_heard():
    holder, over = elsewhere(), threading.Event()

    def beat():
        for number in range(1, 10**6):
            Path("x.lease-000007").write_bytes(lease.Holder(**{**vars(holder), "beat": number}).line())
            if over.wait(lease.SILENCE / 10):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    made = []
    waiting = threading.Thread(target=lambda: made.append(acquire()))
    waiting.start()
    time.sleep(2.5 * lease.SILENCE)
    assert made == []
    over.set()
    beating.join()
    waiting.join()
    assert made[0].number == 8
    made[0].release()


def test_a_beat_needs_no_more_room():
    held, (file,) = acquire(), files()
    first, before = lease.read(file).beat, file.stat()
    until(lambda: lease.read(file).beat > first + 3)
    assert (file.stat().st_size, file.stat().st_ino) == (before.st_size, before.st_ino)
    held.release()
    longest = lease.Holder(**{**vars(lease.Holder.this()), "beat": 10**11})
    assert json.loads(longest.line())["beat"] == str(10**11)


def test_a_holder_whose_file_is_gone_knows():
    held, (file,) = acquire(), files()
    file.unlink()
    with pytest.raises(lease.LeaseLost):
        held.check()
    held.release()
    assert files() == []


def test_a_holder_whose_folder_is_gone_knows_that(tmp_path):
    (tmp_path / "run").mkdir()
    held = lease.acquire(tmp_path / "run", "x", Path("done"), "work")
    for file in (tmp_path / "run").iterdir():
        file.unlink()
    (tmp_path / "run").rmdir()
    assert held.lost
    with pytest.raises(lease.LeaseLost, match=r"run is gone: deleted, or moved away$"):
        held.check()
    held.release()


def test_a_file_that_cannot_be_written_leaves_nothing_to_wait_for(monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lease.Holder, "line", full)
    with pytest.raises(OSError, match="No space"):
        acquire()
    assert files() == []


def test_what_is_left_of_earlier_holders_is_swept():
    elsewhere()
    Path("x.lease-000003").touch()
    Path("y.lease-000001").touch()
    lease.sweep(Path(), "x")
    assert files() == []
    assert Path("y.lease-000001").exists()


def test_who_was_taken_over_does_not_hold_it_again_when_the_other_releases_it():
    first = acquire()
    first._over.set()  # its heart stops
    second = acquire()
    second.release()
    with pytest.raises(lease.LeaseLost):
        first.check()
    assert files() == []


def test_whoever_was_taken_over_sees_it_without_waiting_for_a_beat(monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 3600)
    first = lease.claim(Path(), "writer")
    assert not first.lost
    second = lease.claim(Path(), "writer")
    assert (first.lost, second.lost) == (True, False)
    second.release()
    first._over.set()


@pytest.fixture
def disk(monkeypatch):
    """A disk that gives an error whenever a file is opened, or a folder listed, while `failing` has a number."""
    failing = {"number": 0, "call": "open"}

    def broken(name):
        call = getattr(os, name)

        def attempt(path, *arguments, **options):
            if failing["number"] and failing["call"] == name and "proc" not in str(path):
                raise OSError(failing["number"], os.strerror(failing["number"]), str(path))
            return call(path, *arguments, **options)

        monkeypatch.setattr(os, name, attempt)

    for name in ("open", "listdir"):
        broken(name)
    return failing


@pytest.mark.parametrize("call", ["open", "listdir"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EACCES])
def test_a_moment_in_which_the_disk_gives_errors_loses_nothing(disk, monkeypatch, number, call):
    monkeypatch.setattr(lease, "SILENCE", 30.0)
    held = acquire()
    disk.update(number=number, call=call)
    held.check()
    time.sleep(3 * lease.BEAT)
    assert not held.lost
    disk["number"] = 0
    held.check()
    held.release()
    assert files() == []


def test_a_disk_that_only_gives_errors_loses_it_after_the_silence(disk, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 3600)
    held = acquire()
    disk["number"] = errno.EIO
    held.check()
    time.sleep(lease.SILENCE + 0.1)
    with pytest.raises(lease.LeaseLost, match=r"cannot be read for 1 s: Input/output error; another process may have"):
        held.check()
    disk["number"] = 0
    held.check()
    held._over.set()


def test_errors_of_the_disk_are_no_silence_of_the_holder(disk):
    """Who wants the lease hears no beat meanwhile, as the holder's own machine may write them."""
    holder = elsewhere()
    newest = lease._NewestLease(Path(), "x")
    assert newest.update()
    time.sleep(lease.SILENCE / 2)
    disk["number"] = errno.ESTALE
    assert not newest.update()
    time.sleep(lease.SILENCE * 0.7)
    disk["number"] = 0
    assert newest.update()
    assert newest.holder == holder
    assert newest.silence < lease.SILENCE


@pytest.mark.parametrize("take", [acquire, lambda: lease.claim(Path(), "x")])
def test_a_lease_that_can_never_be_read_ends_the_waiting(disk, take):
    elsewhere()
    disk["number"] = errno.EACCES
    with pytest.raises(OSError, match="Permission denied"):
        take()


def test_a_link_in_a_circle_is_no_lease():
    Path("x.lease-000003").symlink_to("x.lease-000003")
    assert lease_file.read(Path("x.lease-000003")) is None
