"""Folders on real disks: full, read-only, without inodes, sound."""

import pytest
import support

from launcher.health import disks
from launcher.health.disks import Space, Written


def level_of(space, written=None):
    return disks.findings("cache", "/x", space, written or Written(speed=1e9), "set LAUNCHER_CACHE")[0].level


def test_a_full_disk_is_found(tmp_path):
    with support.tmpfs(tmp_path / "small", "4m"):
        (tmp_path / "small" / "filler").write_bytes(bytes(3 * 2**20))
        (found,) = disks.probed("cache", tmp_path / "small" / "launcher", "set LAUNCHER_CACHE to another folder")
        assert (found.level, found.check) == ("failure", "cache")
        assert "small is full (1.0 MiB of 4.0 MiB" in found.found
        assert disks.start_problem([tmp_path / "small"]) is None  # there is some room
        with (tmp_path / "small" / "rest").open("wb", buffering=0) as rest, pytest.raises(OSError):
            while rest.write(bytes(2**16)):
                pass
        assert disks.start_problem([tmp_path, tmp_path / "small"]).startswith(
            f"the disk of {tmp_path}/small is full: 0 B"
        )
        assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["filler", "rest"]


def test_a_disk_without_inodes_is_found(tmp_path):
    with support.tmpfs(tmp_path / "few", "size=16m,nr_inodes=4"):
        for name in "abc":
            (tmp_path / "few" / name).touch()
        assert "no inodes" in disks.probed("cache", tmp_path / "few", "")[0].found
        assert "has no inodes left" in disks.start_problem([tmp_path / "few"])


def test_an_unwritable_cache_is_found(tmp_path):
    with support.tmpfs(tmp_path / "fixed", "ro"):
        (found,) = disks.probed("cache", tmp_path / "fixed" / "launcher", "set LAUNCHER_CACHE to another folder")
    assert (found.level, found.cure) == ("failure", "set LAUNCHER_CACHE to another folder")
    assert "is read-only" in found.found


def test_a_file_in_the_place_of_a_folder_is_found(tmp_path):
    (tmp_path / "cache").touch()
    assert disks.probed("cache", tmp_path / "cache", "")[0].level == "failure"


def test_a_sound_folder_is_ok_and_nothing_is_left_in_it(tmp_path):
    written = disks.write_probe(tmp_path / "new" / "cache")
    assert written.problem == "" and written.speed > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("space", "level"),
    [
        (Space(10**12, 10**13, None), "ok"),
        (Space(10**9, 10**13, None), "warning"),
        (Space(10**6, 10**13, None), "failure"),
        (Space(10**12, 10**13, 1000), "warning"),
        (Space(10**12, 10**13, 10), "failure"),
    ],
)
def test_levels_of_room(space, level):
    assert level_of(space) == level


def test_a_slow_disk_is_a_warning():
    assert level_of(Space(10**12, 10**13, None), Written(speed=10**6)) == "warning"


@pytest.mark.parametrize("room", [Space(0, 0, None), Space(0, 10**9, None), Space(10**9, 10**10, 0)])
def test_a_disk_that_reports_no_room_and_takes_a_file_does_not_keep_a_node_from_a_job(tmp_path, monkeypatch, room):
    """Some file systems in user space report 0 of 0 bytes, and root writes into the reserve of a full disk."""
    monkeypatch.setattr(disks, "space", lambda folder: room)
    assert disks.start_problem([tmp_path, tmp_path / "not there yet"]) is None
    assert list(tmp_path.iterdir()) == []
