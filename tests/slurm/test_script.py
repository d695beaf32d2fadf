"""The batch script on a real Slurm, with a stand-in for the agents that does what a test wants."""

import hashlib
import json
from pathlib import Path

import pytest
import support
from support.slurm_lab import until

from launcher.config import load
from launcher.plan.plan import Plan
from launcher.schedulers import JobRequest, slurm

AGENT = """#!/bin/bash
cd "$3" && mkdir -p "jobs/$LAUNCHER_JOB-$LAUNCHER_START"
echo "$SLURMD_NODENAME $LAUNCHER_JOB $LAUNCHER_START" >>began
again="$3/jobs/$LAUNCHER_JOB-$LAUNCHER_START/again"
"""
ONCE = '[ "$LAUNCHER_START" = 0 ] && { %s >"$again"; exit 75; }; exit 0\n'


@pytest.fixture
def job(lab, tmp_path):
    """Submits the script of a run whose agents run these lines."""

    def submit(lines, *overrides, points=None, options=(), env=None):
        agent = tmp_path / "agent"
        agent.write_text(AGENT + lines)
        agent.chmod(0o755)
        for name in ["run", *(f"run-{i}" for i in points or ())]:
            (tmp_path / "runs" / name / "logs").mkdir(parents=True, exist_ok=True)
            (tmp_path / "runs" / name / "plan.json").touch()
        small = ("slurm.cpus_per_node=1", "slurm.memory_per_node=100M", "slurm.time=10", f"slurm.python={agent}")
        cluster = load.cluster("slurm-cpu", [*small, *overrides]).value
        made = Plan.model_construct(name="run", folder="runs/run", device="cpu", devices_per_node=1)
        script = slurm.Scheduler(cluster.scheduler).render(JobRequest(made, cluster, tmp_path, tmp_path, points=points))
        export = [word for word in script.argv if word.startswith("--export")]
        return lab.sbatch(script.text, *export, *options, cwd=tmp_path, env=env)

    return submit


def began(folder):
    return [line.split() for line in Path(folder, "began").read_text().splitlines()]


def told(folder):
    return [json.loads(line) for line in Path(folder, "jobs.jsonl").read_text().splitlines()]


def test_a_host_is_excluded_on_requeue(lab, job, tmp_path):
    id = job(ONCE % 'echo "$SLURMD_NODENAME"', "nodes=1")
    ended = lab.over(id, 90)
    (first, *_), (second, *_) = starts = began(tmp_path / "runs/run")
    assert [words[1:] for words in starts] == [[id, "0"], [id, "1"]] and first != second
    assert (ended["JobState"], ended["Restarts"], ended["ExcNodeList"]) == ("COMPLETED", "1", first)
    (event,) = told(tmp_path / "runs/run")
    assert {key: event[key] for key in ("event", "job", "start", "how", "next")} == {
        "event": "requeued", "job": id, "start": 0, "how": "requeue", "next": id,
    }  # fmt: skip


@pytest.mark.parametrize("how", ["slurm.requeue=chain", "slurm.options=[--no-requeue]"], ids=["forbidden", "refused"])
def test_a_chained_job_goes_on_under_the_name_of_the_first(lab, job, tmp_path, how):
    id = job(ONCE % ":", "nodes=1", how)
    assert lab.over(id)["ExitCode"] == "75:0"
    (event,) = told(tmp_path / "runs/run")
    assert (event["how"], event["next"]) == ("chain", str(int(id) + 1))
    assert lab.over(event["next"])["JobState"] == "COMPLETED"
    assert [words[1:] for words in began(tmp_path / "runs/run")] == [[id, "0"], [id, "1000"]]


@pytest.mark.parametrize("how", ["requeue", "chain"])
def test_a_task_of_an_array_brings_itself_alone_back(lab, job, tmp_path, how):
    lines = f'[ "$SLURM_ARRAY_TASK_ID" = 1 ] || exit 0\n{ONCE % ":"}'
    id = job(lines, "nodes=1", f"slurm.requeue={how}", points=(0, 1, 2))
    for i in range(3):
        lab.over(f"{id}_{i}", 90)
    if how == "chain":
        lab.over(f"{told(tmp_path / 'runs/run-1')[0]['next']}_1")
    second = {"requeue": "1", "chain": "1000"}[how]
    assert [[words[1:] for words in began(tmp_path / f"runs/run-{i}")] for i in range(3)] == [
        [[f"{id}_0", "0"]], [[f"{id}_1", "0"], [f"{id}_1", second]], [[f"{id}_2", "0"]],
    ]  # fmt: skip


def test_a_node_that_does_not_see_the_run_folder_is_named_and_left_out(lab, job, tmp_path):
    (tmp_path / "runs").mkdir()
    lab.hide(lab.nodes[2], tmp_path / "runs")
    id = job("exit 0", "nodes=3")
    log = tmp_path / f"runs/run/logs/job-{id}.log"
    until(lambda: lab.job(id)["Restarts"] == "1", 30, "it is requeued")
    why = f"{lab.nodes[2]}: the run folder {tmp_path}/runs/run is not there, or cannot be written"
    assert why in log.read_text() and f"1 of 3 nodes cannot run this: {lab.nodes[2]}" in log.read_text()
    until(lambda: lab.job(id)["ExcNodeList"] == lab.nodes[2], 30, "the node is left out, which follows the requeue")
    assert not (tmp_path / "runs/run/began").exists()


def test_a_first_node_that_does_not_see_it_fails_at_once(lab, job, tmp_path):
    (tmp_path / "runs").mkdir()
    lab.hide(lab.nodes[0], tmp_path / "runs")
    ended = lab.over(job("exit 0", "nodes=3"), 15)
    assert (ended["JobState"], ended["Reason"]) == ("FAILED", "JobLaunchFailure")
    assert ended["BatchHost"] == lab.nodes[0]


def test_what_is_preempted_with_grace_comes_back(lab, job, tmp_path):
    waits = 'trap "exit 75" TERM; [ "$LAUNCHER_START" = 0 ] || exit 0; for i in {1..400}; do sleep 0.1; done'
    id = job(waits, "nodes=3", "slurm.partition=spare", "slurm.options=[--exclusive]")
    until(lambda: (tmp_path / "runs/run/began").exists() and len(began(tmp_path / "runs/run")) == 3, 30, "all are up")
    other = lab.sbatch("sleep 1", "--partition=urgent", "--nodes=3", "--exclusive")
    assert lab.over(other, 60)["JobState"] == "COMPLETED"
    assert lab.over(id, 60)["JobState"] == "COMPLETED"
    assert {words[2] for words in began(tmp_path / "runs/run")} == {"0", "1"}


def test_an_elastic_job_takes_the_nodes_that_are_there(lab, job, tmp_path):
    id = job("exit 0", "nodes=2:9")
    assert lab.over(id)["JobState"] == "COMPLETED"
    assert sorted(words[0] for words in began(tmp_path / "runs/run")) == lab.nodes


def test_the_job_ends_with_the_code_of_its_agents(lab, job):
    ended = lab.over(job("exit 1", "nodes=2"))
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "1:0", "0")


@pytest.mark.parametrize("requeue", ["requeue", "chain"])
def test_variables_of_the_submitter_reach_every_start_and_no_file(job, tmp_path, requeue):
    """Slurm's own copy of the environment is what requeued and chained jobs get; SBATCH_EXPORT would keep it out."""
    secret, run = f"canary-{tmp_path.name}-{requeue}", tmp_path / "runs/run"
    seen = 'printf %s "$HF_TOKEN" | sha256sum >>seen\n'
    overrides = ("nodes=1", "env_from=[HF_TOKEN]", f"slurm.requeue={requeue}")
    job(seen + ONCE % ":", *overrides, env={"HF_TOKEN": secret, "SBATCH_EXPORT": "NONE"})
    support.wait_for(lambda: (run / "seen").is_file() and len((run / "seen").read_text().splitlines()) == 2, 180)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert (run / "seen").read_text() == f"{digest}  -\n" * 2
    assert not [file for file, content in support.tree(tmp_path).items() if secret.encode() in content]
