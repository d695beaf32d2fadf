"""Who holds a lease and lives, whatever the clocks say."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from launcher.storage import lease, lease_holder
from launcher.storage.lease import Holder

HOUR = 3600.0


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The lease of a holder on another machine, which beat just now, and a quick heart."""
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "SILENCE", 0.5)
    made = tmp_path / ".writer.lease-000001"
    beat(made, 0)
    return made


def beat(file: Path, number: int) -> None:
    there = {**vars(Holder.this()), "here": "another machine", "host": "elsewhere", "beat": number}
    file.write_bytes(Holder(**there).line())


def lives(file: Path) -> bool:
    return file.parent in lease_holder.holders([file.parent], ".writer")


@pytest.mark.parametrize("ahead", [-HOUR, 0.0, HOUR], ids=["behind", "right", "ahead"])
def test_the_clock_of_this_machine_decides_nothing(file, monkeypatch, ahead):
    here = time.time
    monkeypatch.setattr(time, "time", lambda: here() + ahead)
    assert lives(file)
    os.utime(file, (here() - HOUR, here() - HOUR))
    assert not lives(file)
    with lease.claim(file.parent, ".writer") as held:
        os.utime(file.parent / f".writer.lease-{held.number:06}", (here() - HOUR, here() - HOUR))
        assert lives(file)  # its process is seen
    assert not lives(file)


def test_looking_leaves_nothing_behind(file):
    assert lives(file)
    assert list(file.parent.iterdir()) == [file]


def test_where_nothing_can_be_written_beats_are_counted(file, monkeypatch):
    """As in the runs of somebody else."""
    monkeypatch.setattr(lease_holder, "_disk_time", lambda folder: None)
    assert not lives(file)
    over = threading.Event()

    def beating():
        number = 0
        while not over.wait(0.02):
            beat(file, number := number + 1)

    thread = threading.Thread(target=beating)
    thread.start()
    try:
        found = lives(file)
    finally:
        over.set()
        thread.join()
    assert found


def test_a_disk_without_a_clock_is_told_apart(tmp_path):
    assert lease_holder._disk_time(tmp_path / "nowhere") is None
    assert lease_holder._disk_time(tmp_path) is not None


@pytest.mark.parametrize(
    "change", [{"pid": -1}, {"pid": 2**40}, {"pid": "x"}, {"host": 5}, {"beat": "x"}, {"born": []}]
)
def test_a_damaged_lease_is_nobodys(tmp_path, change):
    (tmp_path / ".writer.lease-000001").write_text(json.dumps({**vars(Holder.this()), "beat": "1", **change}))
    assert lease_holder.holders([tmp_path], ".writer") == {}


def test_a_pipe_in_the_place_of_a_lease_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".writer.lease-000001")
    assert lease_holder.holders([tmp_path], ".writer") == {}
