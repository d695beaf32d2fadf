"""Temporary files: nothing that is read later lies where another user may write."""

import ctypes
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import support

from launcher.prepare import run_setup

ENTER = "from launcher.distributed import private_tmp\nprint(private_tmp.enter(), flush=True)\n"
SHOW = ENTER + "import os, tempfile\nprint(tempfile.gettempdir(), os.environ['TORCHINDUCTOR_CACHE_DIR'], flush=True)\n"
WAIT = ENTER + "import time\ntime.sleep(60)\n"


@pytest.fixture
def shared():
    """A folder like /tmp: everyone may write, nobody may remove what is another's."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="shared-") as folder:  # a socket's name must be short
        Path(folder).chmod(0o1777)
        yield Path(folder)


def environment(folder, **more):
    names = {"TMPDIR": str(folder), **{name: str(value) for name, value in more.items()}}
    kept = {k: v for k, v in os.environ.items() if k not in ("TORCHINDUCTOR_CACHE_DIR", "XDG_RUNTIME_DIR")}
    return {**kept, **names}


def python(code, folder, **more):
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words, env=environment(folder, **more), capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def begin(code, folder):
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, env=environment(folder), stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_the_folder_is_private_and_removed_at_the_exit(shared):
    look = ENTER + "import os\nprint(oct(os.stat(os.environ['TMPDIR']).st_mode & 0o777))\n"
    folder, mode = python(look, shared)
    assert (Path(folder).parent, mode) == (shared, "0o700")
    assert list(shared.iterdir()) == []


def test_child_processes_share_the_folder_and_do_not_remove_it(shared):
    child = ENTER + f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {ENTER!r}], check=True)\n"
    folder, inherited = python(child + "from pathlib import Path\nassert Path(private_tmp.enter()).is_dir()\n", shared)
    assert folder == inherited
    assert list(shared.iterdir()) == []


def test_the_folder_of_a_killed_start_is_removed_by_the_next_one_and_nothing_else(shared):
    (shared / "launcher-not-ours").mkdir()
    killed, left = begin(WAIT, shared)
    living, kept = begin(WAIT, shared)
    killed.kill()
    killed.wait()
    assert left.is_dir()
    python(ENTER, shared)
    assert (left.exists(), kept.is_dir(), (shared / "launcher-not-ours").is_dir()) == (False, True, True)
    living.kill()
    living.wait()


def test_a_link_in_its_place_is_not_followed(shared, tmp_path):
    (tmp_path / ".lock").touch()
    (shared / "launcher-link").symlink_to(tmp_path)
    python(ENTER, shared)
    assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_in_which_others_may_replace_files_is_not_used(tmp_path, mode):
    tmp_path.chmod(mode)
    (folder,) = python(ENTER, tmp_path)
    assert Path(folder).parent == Path("/tmp")


def test_a_folder_too_deep_for_sockets_is_not_used(tmp_path):
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    (folder,) = python(ENTER, deep)
    assert Path(folder).parent == Path("/tmp")


def test_a_disk_without_locks_is_reported(shared):
    without = "import errno, fcntl\ndef flock(*words): raise OSError(errno.ENOSYS, 'Function not implemented')\n"
    told = ENTER.replace("print(", "try: print(") + (
        "except Exception as error: print(type(error).__name__, str(error).replace(' ', '_'))\n"
    )
    name, said = python(without + "fcntl.flock = flock\n" + told, shared)
    assert name == "UserError"
    assert said.endswith("Function_not_implemented_(set_it_to_a_short_path_of_your_own)")
    assert list(shared.iterdir()) == []


def test_the_folders_of_other_machines_are_left_alone(shared):
    """On a disk that machines share, a lock may be known to the machine alone that holds it."""
    elsewhere = shared / "launcher-abcdef-12345678"
    elsewhere.mkdir()
    (elsewhere / ".lock").touch()
    python(ENTER, shared)
    assert elsewhere.is_dir()


def test_compiled_code_goes_to_the_users_cache(shared, tmp_path):
    _, inside, compiled = python(SHOW, shared, XDG_CACHE_HOME=tmp_path)
    assert Path(inside).parent == shared
    assert Path(compiled) == tmp_path / "launcher" / "torchinductor"
    assert stat.S_IMODE(Path(compiled).stat().st_mode) == 0o700


def test_compiled_code_of_a_folder_that_others_may_write_is_not_used(shared, tmp_path):
    folder = tmp_path / "launcher" / "torchinductor"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    _, inside, compiled = python(SHOW, shared, XDG_CACHE_HOME=tmp_path)
    assert Path(compiled).parent == Path(inside)


def test_without_a_home_compiled_code_stays_inside(shared):
    _, inside, compiled = python(SHOW, shared, XDG_CACHE_HOME="/proc/none")
    assert Path(compiled).parent == Path(inside)


IN_CREATE, IN_MOVED_TO = 0x100, 0x80


@contextmanager
def names_in(folder):
    """Every name that appears in a folder, however shortly, as the kernel reports them."""
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init()
    os.set_blocking(watch, False)
    libc.inotify_add_watch(watch, str(folder).encode(), IN_CREATE | IN_MOVED_TO)
    found = set()
    yield found
    while True:
        try:
            data = os.read(watch, 65536)
        except BlockingIOError:
            break
        at = 0
        while at < len(data):
            (length,) = struct.unpack_from("I", data, at + 12)
            found.add(data[at + 16 : at + 16 + length].rstrip(b"\0").decode())
            at += 16 + length
    os.close(watch)


@pytest.mark.parametrize("start", ["elastic", "torchrun", "accelerate", "node"])
def test_nothing_of_a_start_lies_where_others_may_write(workspace, shared, monkeypatch, start):
    """The files that torch has an agent unpickle when a rank dies, under each way to start ranks: a name of theirs in
    the shared folder is all that another user would need."""
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", None)
    support.plugin("slow", support.SLOW)
    recipe = support.write(support.small("x", train__steps=400, sinks=["jsonl", {"kind": "own.slow"}]))
    words = ["run", recipe, "--ranks", 2, "--via", start]
    with names_in(shared) as names:
        process = node(recipe) if start == "node" else support.start(*words)
        support.wait_for_step("runs/x", 3, process)
        victim = rank_of(process, 1)
        os.kill(victim, signal.SIGKILL)
        out, _ = process.communicate(timeout=100)
    assert process.returncode == 1, out
    assert "rank 1" in out
    folders = {name for name in names if name.startswith("launcher-")}
    tried = {name for name in names if re.fullmatch(r"[a-z0-9_]{8}", name)}  # by tempfile, and never read
    assert names == folders | tried, names
    assert len(folders) == 1
    assert list(shared.iterdir()) == []


def test_nothing_of_a_debugging_session_lies_where_others_may_write(workspace, shared, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(shared))
    recipe = support.write(support.small("x"))
    with names_in(shared) as names:
        support.launcher("debug", recipe)
    assert {name for name in names if not re.fullmatch(r"[a-z0-9_]{8}", name)} == {
        name for name in names if name.startswith("launcher-")
    }
    assert len([name for name in names if name.startswith("launcher-")]) == 1
    assert list(shared.iterdir()) == []


def node(recipe):
    """A node's agent alone, as a job of one node starts it."""
    from launcher.config import load

    made = run_setup.create(run_setup.validate(load.recipe(recipe), load.cluster("local").value, 2))
    made.release()
    words = [sys.executable, "-m", "launcher.launch.node", str(made.folder.path), "--hosts", "127.0.0.1"]
    own = {**os.environ, "LAUNCHER_JOB": "alone"}
    return subprocess.Popen(
        words, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def rank_of(process, rank):
    """The process that holds a rank's log open."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                open_files = [os.path.realpath(handle) for handle in Path(f"/proc/{child.pid}/fd").iterdir()]
            except OSError:
                continue
            if any(name.endswith(f"/logs/rank{rank}.log") for name in open_files):
                return child.pid
    raise AssertionError(f"no process of rank {rank}")
