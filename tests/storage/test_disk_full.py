"""A full disk is recognised whoever reports it, and reported in one sentence."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import support
from safetensors.numpy import save_file

from launcher.config.atomic_files import write
from launcher.config.errors import UserError
from launcher.storage import disk_full

NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@pytest.mark.parametrize("number", NUMBERS)
def test_it_is_recognised_by_number_and_by_words(number):
    assert disk_full.number(OSError(number, os.strerror(number))) == number
    assert disk_full.number(RuntimeError(f"OSError: [Errno {number}] {os.strerror(number)}: 'x'")) == number


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), ValueError("full"), OSError("whole")])
def test_other_errors_are_none(error):
    assert disk_full.number(error) is None
    assert disk_full.unexpected(error) is None
    with pytest.raises(type(error)), disk_full.reported(Path()):
        raise error


def by_pyarrow(file):
    schema = pa.schema({"a": pa.int64()})
    with pa.ipc.new_stream(file, schema) as out:
        out.write_batch(pa.record_batch([np.arange(2**17)], schema))


WRITERS = {
    "python": lambda file: file.write_bytes(bytes(2**20)),
    "a text written aside": lambda file: write(file, "x" * 2**20),
    "pyarrow": by_pyarrow,
    "safetensors": lambda file: save_file({"a": np.zeros(2**17)}, file),
}


@pytest.fixture
def small_disk(tmp_path):
    with support.tmpfs(tmp_path / "disk", "64k"):
        yield tmp_path / "disk"


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_what_each_library_says_of_a_full_disk_becomes_the_sentence(small_disk, writer):
    told = rf"^the disk of {small_disk} is full: about 1\.0 MiB are needed, .* are free \(make room there\)$"
    aside = small_disk / "aside"
    with pytest.raises(disk_full.DiskFull, match=told), disk_full.reported(small_disk, 2**20):
        try:
            WRITERS[writer](aside)
        finally:
            aside.unlink(missing_ok=True)
    assert list(small_disk.iterdir()) == []


def test_a_disk_without_inodes_is_told_as_such(tmp_path):
    with support.tmpfs(tmp_path / "disk", "size=1m,nr_inodes=1"):
        with pytest.raises(UserError) as told, disk_full.reported(tmp_path / "disk", kind=UserError):
            (tmp_path / "disk/file").touch()
        expected = f"the disk of {tmp_path}/disk is full: it has no inodes left for another file: 1.0 MiB are free"
        assert str(told.value) == f"{expected} (make room there)"


LIMITED = """
import resource
from pathlib import Path
from launcher.storage import disk_full
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with disk_full.reported(Path("there")):
    Path("file").write_bytes(bytes(5000))
"""


def test_a_limit_on_the_size_of_files_is_told_with_the_limit(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    expected = "a file in there would exceed the largest size of 4.0 KiB (ulimit -f) (raise that limit, or use another"
    assert done.stderr.splitlines()[-1] == f"launcher.storage.disk_full.DiskFull: {expected} disk)"


def test_a_file_on_another_disk_is_told_by_its_own_folder(small_disk, tmp_path):
    with pytest.raises(disk_full.DiskFull, match=f"^the disk of {small_disk} is full"), disk_full.reported(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(small_disk / "file"))


def test_notes_stay():
    with pytest.raises(disk_full.DiskFull) as told, disk_full.reported(Path()):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error.add_note("at step 3")
        raise error
    assert told.value.__notes__ == ["at step 3"]


def test_the_quota_is_told_as_such():
    assert disk_full.sentence(Path("a"), errno.EDQUOT, 10).startswith(
        "the quota on the disk of a is used up: about 10 B are needed, "
    )


def test_shared_memory_is_told_as_such():
    words = "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
    with (
        pytest.raises(disk_full.DiskFull, match=r"^the disk of /dev/shm is full.*--shm-size") as caught,
        disk_full.reported(Path("/tmp")),
    ):
        raise RuntimeError(words)
    assert str(caught.value.__cause__) == words
