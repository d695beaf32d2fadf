"""The example of a scheduler in docs/plugins.md, with a stub of the command that it calls."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import support

from launcher.config import load, plugins
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.launch import node
from launcher.plan.plan import Plan
from launcher.schedulers import JobRequest
from launcher.storage.run_dir import RunDir

PAGE = Path(__file__).parents[2] / "docs/plugins.md"
TSP = """#!/bin/sh
# A stub of task-spooler, which runs a job at once. $QUEUE: its list of jobs; $QUEUE.calls: how it was called otherwise.
case $1 in
    "") cat "$QUEUE" ;;
    -L) id=$2; shift 2; "$@"; echo "0 finished /tmp/out $? 1/1/1 [$id]$*" >"$QUEUE"; echo 0 ;;
    *) echo "$*" >>"$QUEUE.calls"; [ "$2" != 9 ] || { echo "The job 9 cannot be removed." >&2; exit 1; } ;;
esac
"""
PYTHON = """#!/bin/sh
echo "$PWD"; echo "$LAUNCHER_JOB"; echo "$LAUNCHER_CACHE"; echo "$WORD"; printf "%s\\n" "$@"
"""
PROFILE = {
    "name": "mine",
    "kind": "mypkg.spooler",
    "device": "cpu",
    "devices_per_node": 1,
    "env": {"WORD": "two words"},
    "env_from": ["API_KEY"],
}


def executable(file: Path, text: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of jobs of the stub. The current folder is `a b`."""
    here, queue = tmp_path / "a b", tmp_path / "queue"
    here.mkdir()
    monkeypatch.chdir(here)
    executable(tmp_path / "bin/tsp", TSP)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("QUEUE", str(queue))
    monkeypatch.setenv("API_KEY", "hush")
    queue.write_text("")
    return queue


@pytest.fixture
def profile(queue: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The profile, with the example as a module of the current folder."""
    (text,) = re.findall(r'^```python\n("""mypkg/spooler\.py.*?)^```$', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    Path("mypkg").mkdir()
    Path("mypkg/spooler.py").write_text(text)
    monkeypatch.syspath_prepend(Path.cwd())
    for name in ("mypkg", "mypkg.spooler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    support.write(PROFILE, "mine.yaml")
    yield load.cluster("mine.yaml").value
    for name in ("mypkg", "mypkg.spooler"):
        sys.modules.pop(name, None)


def test_a_job_starts_the_agent_of_its_node(profile: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the id that it was submitted with, by the command that a dry run prints."""
    monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "bin/my python", PYTHON)))
    plan = Plan.model_construct(name="tiny", folder="runs/tiny", device="cpu", devices_per_node=1)
    run = RunDir(Path.cwd() / "runs/tiny")
    run.logs.mkdir(parents=True)
    scheduler = plugins.scheduler(profile.scheduler)
    job = scheduler.render(JobRequest(plan, profile, Path.cwd(), tmp_path / "the cache"))
    id = scheduler.submit(job).id
    assert id == job.name and "hush" not in str(job)
    assert shlex.split(str(job))[:5] == ["tsp", "-L", id, "sh", "-c"]
    *printed, _, module, folder, first, second = (run.logs / f"job-{id}.log").read_text().splitlines()
    assert printed == [str(Path.cwd()), id, str(tmp_path / "the cache"), "two words"]
    assert (module, folder) == ("launcher.launch.node", str(run.path))
    this = node.this_node(node._options([folder, first, second]), {})
    assert this == node.Node(0, ("localhost",))
    assert node.Start.of(run, this, {"LAUNCHER_JOB": printed[1]}).job == id
    state = scheduler.state(id, run.path)
    assert state is not None and not state.alive


def test_a_job_is_found_and_cancelled_by_its_id(profile: Cluster, queue: Path) -> None:
    scheduler, run = plugins.scheduler(profile.scheduler), Path("runs/tiny")
    jobs = ["8 running /tmp/out [run-1]env", "7 queued (file) [run-2]env", "9 queued (file) [old]env"]
    queue.write_text("\n".join(["ID State Output", *jobs, ""]))
    states = [scheduler.state(id, run) for id in ("run-1", "run-2")]
    assert [state and state.phase for state in states] == ["running", "waiting"]
    assert scheduler.state("run-3", run) is None
    scheduler.cancel(["run-1", "run-2"])
    assert Path(f"{queue}.calls").read_text() == "-k 8\n-r 7\n"


def test_a_failure_is_one_line(profile: Cluster, queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = plugins.scheduler(profile.scheduler)
    queue.write_text("9 queued (file) [old]env\n")
    with pytest.raises(UserError, match=r"^tsp -r 9: The job 9 cannot be removed\.$"):
        scheduler.cancel(["old"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^tsp: not found \("):
        scheduler.state("old", Path("runs/tiny"))


def test_a_profile_needs_no_section_for_a_kind_without_keys(profile: Cluster) -> None:
    assert profile.scheduler.kind == "mypkg.spooler"
