"""Folders that cannot be used: each is one line, nothing is started, and nothing is left by trying."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import support

from launcher.config import load, paths
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.plan import writable_folders
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir

LOCAL = Cluster(device="cpu")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_a_file(folder):
    folder.write_text("")
    return "it is a file, not a folder"


def of_a_link(folder):
    folder.symlink_to("nowhere")
    return "it is a link to nowhere, which does not exist"


def of_a_link_to_itself(folder):
    folder.symlink_to(folder.name)
    return f"it is a link to {folder.name}, which does not exist"


def of_proc(folder):
    folder.symlink_to("/proc")
    return "No such file or directory"


@pytest.mark.parametrize("make", [of_a_file, of_a_link, of_a_link_to_itself, of_proc])
@pytest.mark.parametrize("inner", ["", "a/b"])
def test_what_is_no_folder_to_write_in_is_one_line(make, inner):
    reason = make(Path("there"))
    assert writable_folders.unusable(Path("there", inner), "the rest", "do this") == [
        f"the rest: there cannot be written: {reason} (do this)"
    ]


def test_a_folder_mounted_read_only_and_one_without_inodes():
    with support.tmpfs(Path("there"), "ro"):
        told = writable_folders.unusable(Path("there/a"), "it", "do this")
        assert told == ["it: there cannot be written: Read-only file system (do this)"]
    with support.tmpfs(Path("there"), "size=1m,nr_inodes=1"):
        (told,) = writable_folders.unusable(Path("there/a"), "it", "do this")
        assert told.startswith("it: the disk of there is full: it has no inodes left for another file")


def test_a_folder_that_can_be_used_stays_as_it_was():
    Path("there").mkdir()
    for folder in ("there", "there/a/b", "new/one"):
        assert writable_folders.unusable(Path(folder), "it", "do this") == []
    assert writable_folders.run(RunDir(Path("runs/r"))) == []
    assert [*Path().rglob("*")] == [Path("there")]


@pytest.mark.parametrize("culprit", ["runs", "runs/r", "runs/r/checkpoints", "runs/r/logs"])
def test_each_folder_of_a_run_is_tried(culprit):
    Path(culprit).parent.mkdir(parents=True, exist_ok=True)
    Path(culprit).write_text("")
    advice = "(repair that, or start the run in another folder)"
    told = [f"the run folder runs/r: {culprit} cannot be written: it is a file, not a folder {advice}"]
    assert writable_folders.run(RunDir(Path("runs/r"))) == told


def test_temporary_files_go_where_requested_or_nowhere(monkeypatch, here):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert writable_folders.temporary() == [
        "TMPDIR: /nowhere does not exist (create it, or set TMPDIR to another folder)"
    ]
    monkeypatch.setenv("TMPDIR", "/proc")
    (told,) = writable_folders.temporary()
    assert told.startswith("TMPDIR: /proc cannot be written: ")
    for usable in (str(here), ""):
        monkeypatch.setenv("TMPDIR", usable)
        assert writable_folders.temporary() == []


def test_a_home_that_nobody_knows(monkeypatch):
    monkeypatch.delenv("LAUNCHER_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    told = "the cache: ~/.cache/launcher: the home folder is not known (set HOME, or LAUNCHER_CACHE)"
    assert writable_folders.cache() == [told]
    with pytest.raises(UserError, match="the home folder is not known"):
        paths.cache()


def test_every_folder_is_reported_with_the_other_mistakes(monkeypatch):
    """At once, by the plan and by the start; of a cache nothing is asked where all is there already."""
    file = support.write(support.small(train__global_batch=1))
    Path("runs").symlink_to("nowhere")
    Path("cache").write_text("")
    monkeypatch.setenv("LAUNCHER_CACHE", "cache")
    monkeypatch.setenv("TMPDIR", "/nowhere")
    starts = {
        "look": lambda: run_setup.dry_run(load.recipe(file), LOCAL, 2),
        "check": lambda: run_setup.validate(load.recipe(file), LOCAL, 2, writable_folders.temporary()),
    }
    for name, start in starts.items():
        with pytest.raises(UserError) as told:
            start()
        lines = str(told.value).splitlines()
        assert any(line.startswith("the cache: cache cannot be written: it is a file") for line in lines)
        assert any(line.startswith("TMPDIR: /nowhere does not exist") for line in lines)
        assert any(line.startswith("recipe.yaml:") and "cannot be shared by 2 ranks" in line for line in lines)
        assert name == "check" or any(
            line.startswith("the run folder runs/tiny: runs cannot be written: it is a link") for line in lines
        )


def test_a_cache_that_has_everything_may_be_read_only(monkeypatch):
    file = support.write(support.small())
    monkeypatch.setenv("LAUNCHER_CACHE", "cache")
    with support.tmpfs(Path("cache"), "1m") as remount:
        run_setup.validate(load.recipe(file), LOCAL, 1)
        remount("1m,ro")
        assert run_setup.dry_run(load.recipe(file), LOCAL, 1).prepared is not None
        support.write(support.small(data__train__rows=99))
        with pytest.raises(UserError, match=r"^the cache: cache\S* cannot be written: Read-only file system"):
            run_setup.dry_run(load.recipe(file), LOCAL, 1)


def unshared(script, *arguments):
    """A command with mounts of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a namespace of mounts cannot be made here")
    command = ["unshare", "-m", "bash", "-c", script, "bash", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


COUNT = "from launcher.plan import writable_folders; print(*writable_folders.semaphores(2, {workers}))"


@pytest.mark.parametrize(
    ("options", "workers", "told"),
    [
        ("ro", 0, "semaphore 1 of the 4 needed cannot be created: Read-only file system"),
        ("size=8k", 0, "semaphore 3 of the 4 needed cannot be created: No space left on device"),
        ("size=64k", 2, "semaphore 17 of the 32 needed cannot be created: No space left on device"),
        ("size=64k", 0, ""),
    ],
)
def test_semaphores_are_tried_in_dev_shm(options, workers, told):
    script = f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"'
    done = unshared(script, sys.executable, "-c", COUNT.format(workers=workers))
    assert done.returncode == 0, done.stderr
    advice = "(mount a tmpfs there; for a container: --shm-size=1g, or --ipc=host)"
    assert done.stdout == (f"/dev/shm: {told} {advice}\n" if told else "\n")


def test_ranks_of_other_machines_need_nothing_of_this_one(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    recipe = load.recipe(support.write(support.small())).value
    elsewhere = Cluster(kind="slurm", slurm={}, device="cpu", devices_per_node=1, memory_per_device=1)
    assert writable_folders.ranks(recipe, elsewhere, None) == []
    assert len(writable_folders.ranks(recipe, LOCAL, None)) == 1


def test_a_current_folder_that_is_gone():
    Path("gone").mkdir()
    script = 'cd gone && rmdir ../gone && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *support.command("plan", "r.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "the current folder does not exist any more (cd to another)"


@pytest.fixture
def bound():
    """The words that give up root's right to pass by permissions."""
    words = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("rights cannot be given up here")
    return words


def test_a_current_folder_that_may_not_be_entered(bound):
    Path("closed").mkdir()
    command = ["bash", "-c", 'chmod 600 .; exec "$@"', "bash", *bound, *support.command("plan", "r.yaml")]
    done = subprocess.run(command, cwd="closed", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "the current folder cannot be entered: Permission denied (cd to another)\n"


@pytest.mark.parametrize("command", ["plan", "run"])
def test_runs_that_may_not_be_read(bound, command):
    file = support.write(support.small())
    Path("runs/tiny").mkdir(parents=True)
    Path("runs/tiny/recipe.yaml").write_text("name: tiny\n")
    Path("runs").chmod(0)
    words = [*bound, *support.command(command, file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("the run folder runs/tiny: runs cannot be written: Permission denied")
    assert all("Permission denied" in line for line in lines)
