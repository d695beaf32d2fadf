"""A user's own scheduler in one file (spool_scheduler.py), named by a dotted path in a cluster profile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import support
from pydantic import ValidationError
from rich.console import Console
from support import type_check

from launcher.config import load, plugins, trust
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools import cancel, job_scheduler, submit
from launcher.tools.status import run_events, run_status
from launcher.tools.status import status as status_tool

SCHEDULER = Path(__file__).parent / "spool_scheduler.py"
PROFILE = {
    "name": "spool", "kind": "own.spool", "nodes": 2, "device": "cpu", "devices_per_node": 2, "memory_per_device": 8,
    "env": {"WORD": "two words"}, "spool": {"folder": "queue", "hosts": ["a", "b"]},
}  # fmt: skip


@pytest.fixture
def here(workspace):
    """A recipe, a profile of the spool, and its queue."""
    support.plugin("spool", SCHEDULER.read_text(encoding="utf-8"))
    support.write(support.small())
    support.write(PROFILE, "spool.yaml")
    (workspace / "queue").mkdir()
    return workspace


def cluster(**keys):
    return Cluster.model_validate({"device": "cpu", "devices_per_node": 1, "memory_per_device": 1, **keys})


def launcher(*words, code=0):
    return support.launcher(*words, code=code)


def status():
    (one,) = json.loads(launcher("status", "runs/tiny", "--json").stdout)
    return one["state"]["name"], one["id"], tuple(one["nodes"])


def test_commands_work_with_it(here):
    planned = launcher("plan", "recipe.yaml", "--cluster", "spool.yaml").stdout
    assert "4 ranks (2 nodes x 2)" in planned and "launcher submit recipe.yaml --cluster spool.yaml" in planned
    before = support.tree(here)
    dry = launcher("submit", "recipe.yaml", "--cluster", "spool.yaml", "--dry-run").stdout
    assert dry.startswith(f"cd {here}\non a env LAUNCHER_CACHE=") and dry.endswith("--node 1 --hosts a,b\n")
    assert dry.count(" 'WORD=two words' LAUNCHER_JOB=spooled-") == 2
    assert support.tree(here) == before
    submitted = launcher("submit", "recipe.yaml", "--cluster", "spool.yaml")
    assert "spool: 0 jobs are before this one" in submitted.stderr
    assert submitted.stdout == "job spool-1: runs/tiny/logs/job-spool-1.log\n"
    queued = json.loads((here / "queue/spool-1.json").read_text())
    assert queued["text"].splitlines()[0] == dry.splitlines()[0]
    assert status() == ("pending", "spool-1", ())
    refused = launcher("submit", "recipe.yaml", "--cluster", "spool.yaml", code=2)
    assert refused.stderr.splitlines()[-1].startswith("runs/tiny: job spool-1 is waiting (launcher cancel runs/tiny")
    cancelled = launcher("cancel", "runs/tiny").stdout
    assert cancelled.startswith("job spool-1 is cancelled: it was waiting\n")
    assert status()[0] == "cancelled"
    over = launcher("cancel", "runs/tiny", code=2)
    assert over.stderr == "runs/tiny: job spool-1 is over already: cancelled\n"


def test_a_job_is_followed_from_its_submission_to_its_end(here, capfd):
    """The one test that runs the job of an own scheduler, some 10 s on an idle machine: it is over its deadline."""
    words = ["nodes=1", "devices_per_node=1", "spool.hosts=[localhost]"]
    profile, recipe, console = load.cluster("spool.yaml", words).value, load.recipe("recipe.yaml"), Console(stderr=True)

    def queued(phase):
        file = here / "queue/spool-1.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "phase": phase}))
        return json.loads(file.read_text())["text"]

    submit.submit(recipe, profile, None, False, console)
    node = f'on() {{ shift; LAUNCHER_DEADLINE=1 "$@"; }}\n{queued("running")}'
    assert subprocess.run(["bash", "-c", node], timeout=240, check=False).returncode == 1
    run = RunDir(Path("runs/tiny"))
    assert [event["event"] for event in job_log.read(run)] == ["submitted", "started", "ended"]
    with pytest.raises(UserError, match=r"^runs/tiny: job spool-1 is running"):
        submit.submit(recipe, profile, None, False, console)
    queued("ended")
    one = run_status.read_status(run, run_events.JobSchedulers())
    assert (one.state.name, one.id, len(one.starts)) == ("failed", "spool-1", 1)
    assert one.error == "start 0: it was time to leave before a step was saved"
    with pytest.raises(UserError, match=r"^runs/tiny: job spool-1 is over already: failed$"):
        cancel.cancel("tiny", console)


def test_its_mistakes_and_refusals_are_one_line(here):
    words = ("submit", "recipe.yaml", "--cluster", "spool.yaml")
    assert launcher(*words, "cluster.spool.hosts=[a]", code=2).stderr == (
        "spool.yaml:7: nodes: 2 is more than the spool's 1 hosts\n"
    )
    assert launcher(*words, "cluster.spool.host=a", code=2).stderr == (
        "'cluster.spool.host=a': spool.host: unknown key (did you mean hosts?)\n"
    )
    assert launcher(*words, "cluster.spool.folder=none", code=2).stderr.splitlines()[-1] == (
        "none: no spool folder (--cluster spool.yaml)"
    )
    assert not (here / "runs").exists()
    refused = launcher("run", "recipe.yaml", "--cluster", "spool.yaml", code=2).stderr
    assert refused.startswith(
        "--cluster spool.yaml: of kind own.spool, where runs wait for their turn (launcher submit"
    )


def submitted(name, folder="queue", phase="waiting", recorded=True):
    """A run of which a job was put into a queue, and that was then started on this machine."""
    run = RunDir(Path("runs") / name)
    run.path.mkdir(parents=True)
    profile = load.cluster("spool.yaml", [f"spool.folder={folder}"]).value
    options = {"options": job_scheduler.options(profile.scheduler)} if recorded else {}
    about = {"job": name, "id": "spool-1", "scheduler": profile.kind}
    job_log.append(run, {"event": "submitted", **about, **options})
    Path(folder).mkdir(exist_ok=True)
    job = {"phase": phase, "run": str(run.path.absolute()), "text": ""}
    (Path(folder) / "spool-1.json").write_text(json.dumps(job))
    load.dump(load.cluster("local").value, run.cluster)
    return run


def test_a_job_is_asked_after_with_the_options_that_it_was_submitted_with(here):
    run = submitted("one", "another-queue")
    assert run_status.read_status(run, run_events.JobSchedulers()).state.name == "pending"
    cancel.cancel("one", Console(stderr=True))
    assert json.loads((here / "another-queue/spool-1.json").read_text())["phase"] == "cancelled"


def test_a_run_whose_scheduler_cannot_be_asked_hinders_no_other(here, capsys):
    """A launcher before this one recorded no options, which this kind cannot be without."""
    runs = [submitted("old", recorded=False), submitted("new", "another-queue", "cancelled")]
    schedulers = run_events.JobSchedulers()
    assert [one.state.name for one in run_status.read_statuses(runs, schedulers)] == ["pending", "cancelled"]
    assert schedulers.trouble == {}
    note = "runs/old/cluster.yaml: no profile of kind own.spool, which its job was submitted to"
    assert schedulers.unusable == [note]
    status_tool.status([], False, Console(width=200))
    assert capsys.readouterr().out.splitlines()[-1] == f"note: {note}"


def test_recorded_options_hold_no_secrets(here):
    text = SCHEDULER.read_text(encoding="utf-8").replace("folder: str\n", "folder: str\n    api_token: str = ''\n", 1)
    support.plugin("pool", text.replace("own.spool", "own.pool"))
    scheduler = cluster(kind="own.pool", pool={"folder": "q", "hosts": ["a"], "api_token": "hush"}).scheduler
    assert job_scheduler.options(scheduler) == {"folder": "q", "hosts": ["a"]}
    run = RunDir(here)
    job = job_log.Job("1", scheduler="own.pool", ids=("1",), options=job_scheduler.options(scheduler))
    load.dump(cluster(kind="own.pool", pool=scheduler.model_dump(exclude={"kind"})), run.cluster)
    assert job_scheduler.of(run, job).config.api_token == "hush"


def test_the_code_of_somebody_elses_run_is_imported_only_where_it_is_trusted(tmp_path, monkeypatch):
    theirs = tmp_path / "outside" / "theirs"
    theirs.mkdir(parents=True)
    (theirs / "spool.py").write_text(SCHEDULER.read_text(encoding="utf-8").replace("own.spool", "theirs.spool"))
    monkeypatch.syspath_prepend(str(tmp_path / "outside"))
    monkeypatch.setattr(trust, "_trusted", {})
    run = RunDir(tmp_path / "here/runs/one")
    run.path.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    support.write({**PROFILE, "kind": "theirs.spool"}, run.cluster)
    job = job_log.Job("spool-1", scheduler="theirs.spool", ids=("spool-1",))
    with pytest.raises(UserError, match=r"names it, not you \(--trust theirs\.spool runs it\)$"):
        job_scheduler.of(run, job)
    assert "theirs.spool" not in sys.modules
    trust.trust(["theirs.spool"])
    assert job_scheduler.of(run, job).config.folder == "queue"


BARE = """
from launcher import schedulers
from launcher.config.types import SchedulerConfig
class Config(SchedulerConfig):
    pass
"""


@pytest.mark.parametrize(
    ("name", "text", "queued"),
    [("queue", "schedulers.Scheduler", True), ("foreground", "schedulers.ForegroundScheduler", False)],
)
def test_whether_it_has_a_queue_follows_from_its_class(workspace, name, text, queued):
    members = "".join(f"    def {name}(self, *given): ...\n" for name in ("render", "submit", "state", "cancel"))
    support.plugin(name, f"{BARE}class Scheduler({text}):\n{members}")
    config = cluster(kind=f"own.{name}").scheduler
    assert plugins.is_queued(config) is queued


@pytest.mark.parametrize(("name", "text"), [("none", ""), ("other", "class Scheduler:\n    pass\n")])
def test_a_module_without_a_scheduler_is_reported_with_the_profile(workspace, name, text):
    support.plugin(name, BARE + text)
    told = rf"kind 'own.{name}': no class Scheduler\(launcher.schedulers.Scheduler\) in "
    with pytest.raises(ValidationError, match=told):
        cluster(kind=f"own.{name}")


def test_a_type_checker_accepts_it():
    type_check.assert_accepted(SCHEDULER)
