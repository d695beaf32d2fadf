"""Whether checkpoints can be saved is tried at each start, by what a save does."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import support

from launcher.storage import disk_probe
from launcher.storage.run_dir import RunDir


def test_a_folder_that_works_is_made_and_stays_empty_whoever_probes_it_too(tmp_path):
    folder = tmp_path / "a/checkpoints"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(disk_probe.problem, [folder] * 40)) == [None] * 40
    assert list(folder.iterdir()) == []


def test_what_a_killed_probe_leaves_is_removed_by_the_next_save(tmp_path):
    for name in (".probe-0123abcd", ".probe-0123abcd-renamed"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert len(RunDir(tmp_path).half_written()) == 2


@pytest.mark.parametrize("inner", ["", "checkpoints"])
def test_a_folder_that_is_a_file_is_one_line(tmp_path, inner):
    (tmp_path / "file").write_text("x")
    folder = tmp_path / "file" / inner
    told = (
        f"no checkpoint can be saved in {folder}: it is a file, not a folder (repair that, or start the run in another"
    )
    assert disk_probe.problem(folder) == f"{told} folder)"


def test_a_full_and_a_read_only_disk_are_one_line(tmp_path):
    with support.tmpfs(tmp_path / "disk", "4k"):
        (tmp_path / "disk/filler").write_bytes(bytes(4096))
        told = disk_probe.problem(tmp_path / "disk")
        assert told is not None and "is full: about 4.0 KiB are needed, 0 B are free (make room there)" in told
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["filler"]
    with support.tmpfs(tmp_path / "disk", "ro"):
        told = disk_probe.problem(tmp_path / "disk")
        assert told is not None and f"the disk of {tmp_path}/disk is read-only: nothing can be written there" in told


def test_a_disk_that_renames_nothing_is_one_line(tmp_path, monkeypatch):
    def refuse(path, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "rename", refuse)
    told = disk_probe.problem(tmp_path / "disk")
    assert told is not None and "Operation not supported (repair that" in told
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_run_is_refused_before_its_first_step(workspace):
    """Adds 3 s: the whole way shows that ranks report it, in one line and with the exit code of a mistake."""
    file = support.write(support.small())
    support.launcher("run", file, "--ranks", 2)
    checkpoints = Path("runs/tiny/checkpoints")
    checkpoints.rename("moved")
    checkpoints.write_text("x")
    done = support.launcher("run", file, "train.steps=8", "--ranks", 2, code=2)
    assert "Traceback" not in done.stderr
    assert "checkpoints cannot be written: it is a file" in done.stderr or "no checkpoint can be saved" in done.stderr
