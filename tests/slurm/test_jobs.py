"""Submitted runs on a real Slurm: they end where a local run ends, whatever happens to their nodes on the way."""

import itertools
import json
import os
import time
from pathlib import Path

import pytest
import support
from support.submitted_run import Submitted, profile, slow, weights

DROPOUT = {"model__dropout": 0.1}


def same(one, other, tolerance=1e-9):
    """Step by step the same samples and masks, and the same losses."""
    one, other = support.steps(one), support.steps(other)
    assert sorted(one) == sorted(other)
    for step, told in one.items():
        assert other[step]["data"] == told["data"], step
        assert abs(other[step]["loss"] - told["loss"]) < tolerance, step


def no_gaps(run, every=5):
    """A step is repeated only from the checkpoint on that a start began with, and none is left out."""
    steps = [record["step"] for record in support.records(run) if "loss" in record]
    assert set(steps) == set(range(1, max(steps) + 1))
    for before, after in itertools.pairwise(steps):
        assert after == before + 1 or before - every < after <= before, (before, after)


def test_two_nodes_of_two_ranks_do_what_one_rank_does(lab, workspace):
    profile(nodes=2, ranks=2)
    run = Submitted(lab, "two", of=support.mlm)
    support.launcher("run", "two.yaml", "name=one", "--ranks", 1)
    job = run.over()
    assert (job["JobState"], job["ExitCode"], job["NumNodes"]) == ("COMPLETED", "0:0", "2"), run.log()
    same("runs/one", "runs/two", 1e-8)
    assert run.starts() == [(0, "done")]
    assert sorted(p.name for p in run.folder.logs.glob("rank*.log")) == [f"rank{i}.log" for i in range(4)]
    assert len(list(run.folder.logs.glob("node-*.log"))) == 2
    assert run.told()["state"]["name"] == "done"


@pytest.mark.parametrize("steps, leave", [(200, 12), pytest.param(600, 25, marks=pytest.mark.soak)])
def test_a_run_longer_than_its_time_limit_ends_by_itself(lab, workspace, steps, leave):
    profile(nodes=1, ranks=2, time=1, leave=leave)
    changes = {"train__steps": steps, "checkpoint__every": 1000, **DROPOUT, **slow(0.25)}
    run = Submitted(lab, "limited", of=support.mlm, **changes)
    support.launcher("run", "limited.yaml", "name=whole", "sinks=[jsonl]", "--ranks", 2)
    job = run.over(900)
    assert job["JobState"] == "COMPLETED", run.log()
    starts = run.starts()
    print(f"{len(starts)} starts of a minute at the most")
    assert len(starts) > 1 and [why for _, why in starts] == [*["time"] * (len(starts) - 1), "done"]
    told = [record["step"] for record in support.records(run.folder.path) if "loss" in record]
    assert told == list(range(1, steps + 1))  # all was saved before a start left: none is repeated, none left out
    same("runs/whole", run.folder.path, 0.0 + 1e-15)
    assert weights("runs/whole") == weights(run.folder.path)
    assert run.told()["requeues"] == len(starts) - 1


def test_a_node_that_is_powered_off_is_gone_on_without(lab, workspace):
    profile(nodes=2, ranks=1)
    run = Submitted(lab, "crash", train__steps=60, **slow(0.1))
    run.at_step(12)
    lost = lab.job(run.id)["BatchHost"]
    other = next(node for node in lab.nodes if node != lost)
    lab.crash(other if other in run_nodes(lab, run) else lost)
    lab.down(other if other in run_nodes(lab, run) else lost)
    job = run.over(240)
    assert job["JobState"] == "COMPLETED" and int(job["Restarts"]) == 1, run.log()
    support.launcher("run", "crash.yaml", "name=whole", "sinks=[jsonl]", "--ranks", 2)
    no_gaps(run.folder.path)
    same("runs/whole", run.folder.path)


def run_nodes(lab, run):
    listed = lab.run("scontrol", "show", "hostnames", lab.job(run.id)["NodeList"])
    return listed.split()


def test_the_ghost_of_a_lost_slurmd_cannot_save(lab, workspace):
    """Slurm gives up a node whose processes live on, and starts the job elsewhere: two starts of one run at once."""
    profile(nodes=1, ranks=1)
    run = Submitted(lab, "ghost", train__steps=400, **slow(0.1))
    run.at_step(12)
    node = lab.job(run.id)["NodeList"]
    lab.kill_slurmd(node)
    lab.down(node)
    support.wait_for(lambda: len(run.starts()) == 2, 90)
    assert lab.pids(node, "launcher.launch.node"), "the first start should live on"
    support.wait_for(lambda: not lab.pids(node, "launcher.launch.node"), 60)  # until it finds out
    run.at_step(max(support.steps(run.folder.path)) + 5)
    ended = [event for event in _events(run) if event["event"] == "ended"]
    assert [(event["start"], event["why"], event["code"]) for event in ended] == [(0, "replaced", 1)]
    told = (run.folder.jobs / f"{run.id}-0" / "error").read_text()
    assert told == "another start of this run has taken over: this one leaves, and saves nothing\n"
    lab.run("scancel", run.id)
    run.over()
    no_gaps(run.folder.path, 400)


def _events(run):
    return [json.loads(line) for line in (run.folder.path / "jobs.jsonl").read_text().splitlines()]


def outlived(lab, run, lost):
    """The job goes on without the node, to the end that a local run of two ranks has."""
    told, begin = max(support.steps(run.folder.path)), time.monotonic()
    run.at_step(told + 2)
    print(f"from the loss of a node to the step after: {time.monotonic() - begin:.1f} s")
    lab.down(lost)  # else the step waits for it until Slurm has noticed
    job = run.over(240)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "0"), run.log()
    support.launcher("run", f"{run.name}.yaml", "name=whole", "sinks=[jsonl]", "--ranks", 2)
    no_gaps(run.folder.path)
    same("runs/whole", run.folder.path)


def test_an_elastic_job_shrinks_in_seconds_when_a_node_is_lost(lab, workspace):
    profile(nodes="2:3", ranks=1)
    run = Submitted(lab, "elastic", of=support.mlm, train__steps=60, **slow(0.1))
    run.at_step(12)
    lost = next(node for node in run_nodes(lab, run)[1:])
    lab.crash(lost)
    outlived(lab, run, lost)


def test_a_node_held_in_reserve_takes_the_place_of_a_lost_one(lab, workspace):
    profile(nodes=2, ranks=1, spares=1)
    run = Submitted(lab, "spare", train__steps=60, **slow(0.1))
    run.at_step(12)
    logs = {node: (run.folder.logs / f"node-{node}.log").read_text() for node in run_nodes(lab, run)}
    lost = next(node for node in list(logs)[1:] if "redundancy list" not in logs[node])
    lab.crash(lost)
    outlived(lab, run, lost)
    assert weights("runs/whole") == weights(run.folder.path)


def test_a_requeue_by_hand_goes_on_where_it_was(lab, workspace):
    profile(nodes=1, ranks=2)
    run = Submitted(lab, "requeued", train__steps=40, checkpoint__every=1000, **DROPOUT, **slow(0.1))
    run.at_step(8)
    lab.run("scontrol", "requeue", run.id)
    assert run.over(180)["JobState"] == "COMPLETED", run.log()
    assert run.starts() == [(0, "told"), (1, "done")]
    support.launcher("run", "requeued.yaml", "name=whole", "sinks=[jsonl]", "--ranks", 2)
    assert weights("runs/whole") == weights(run.folder.path)


def no_gaps_and_no_orphans(run):
    """The steps of all starts are without a gap or a repetition up to the newest checkpoint, and no agent was lost."""
    assert not list(run.folder.jobs.glob("*/orphaned"))
    logged = [record["step"] for record in support.records(run.folder.path) if "loss" in record]
    assert run.folder.whole()[-1].step == max(logged) and logged == list(range(1, max(logged) + 1))


def test_usr1_makes_way_and_comes_back(lab, workspace):
    """Each agent of an elastic job has a shell around it, which passes signals on."""
    profile(nodes="2:3", ranks=1)
    run = Submitted(lab, "usr1", train__steps=40, checkpoint__every=1000, **slow(0.1))
    run.at_step(8)
    lab.run("scancel", "--signal=USR1", run.id)
    assert run.over(180)["JobState"] == "COMPLETED", run.log()
    assert run.starts() == [(0, "time"), (1, "done")]
    no_gaps_and_no_orphans(run)


def test_usr1_to_the_batch_shell_makes_way_too(lab, workspace):
    profile(nodes=1, ranks=1)
    run = Submitted(lab, "shell", train__steps=40, checkpoint__every=1000, **slow(0.1))
    run.at_step(8)
    lab.run("scancel", "--batch", "--signal=USR1", run.id)
    assert run.over(180)["JobState"] == "COMPLETED", run.log()
    assert run.starts() == [(0, "time"), (1, "done")]


def test_not_more_often_than_it_may(lab, workspace):
    profile(nodes=1, ranks=1)
    run = Submitted(lab, "seldom", "--max-requeues", 0, train__steps=400, **slow(0.1))
    run.at_step(8)
    lab.run("scancel", "--signal=USR1", run.id)
    job = run.over()
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "75:0"), run.log()
    assert run.starts() == [(0, "time")] and "(--max-requeues)" in run.log()


def test_where_requeue_is_not_wanted_a_chained_job_follows(lab, workspace):
    profile(nodes=1, ranks=1, requeue="chain")
    run = Submitted(lab, "chained", train__steps=40, checkpoint__every=1000, **slow(0.1))
    run.at_step(8)
    lab.run("scancel", "--signal=USR1", run.id)
    run.over()
    support.wait_for(lambda: [why for _, why in run.starts()] == ["time", "done"], 120)
    assert [number for number, _ in run.starts()] == [0, 1000]
    assert max(support.steps(run.folder.path)) == 40


def test_a_cancelled_job_stays_cancelled_and_its_last_checkpoint_is_whole(lab, workspace):
    profile(nodes="2:3", ranks=1)
    run = Submitted(lab, "cancelled", train__steps=400, checkpoint__every=1000, **slow(0.1))
    run.at_step(8)
    lab.run("scancel", run.id)
    assert run.over()["JobState"] == "CANCELLED"
    time.sleep(10)  # it would have been back by now
    assert lab.job(run.id)["JobState"] == "CANCELLED" and len(run.starts()) == 1
    run.folder.whole()[-1].verify()
    no_gaps_and_no_orphans(run)
    assert run.told()["state"]["name"] == "cancelled"


def test_the_error_of_a_failing_rank_is_the_last_thing_in_the_log(lab, workspace):
    profile(nodes=2, ranks=2)
    support.plugin("faulty", support.FAULTY)
    run = Submitted(lab, "faulty", train__steps=400, task__kind="own.faulty")
    job = run.over()
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "1:0", "0"), run.log()
    last = [line for line in run.log().splitlines() if line and not line.startswith(" ")][-1]
    assert last.startswith("rank 1 on ") and "the third law of thermodynamics" in last
    assert "srun" not in run.log()[run.log().index(last) :]


def test_a_node_whose_name_the_others_do_not_know_is_named(lab, workspace):
    profile(nodes=3, ranks=1)
    support.launcher("prepare", support.write(support.small("unknown", train__precision="fp64"), "unknown.yaml"))
    for node in lab.nodes[:2]:
        lab.forget(node, lab.nodes[2])
    run = Submitted(lab, "unknown")
    support.wait_for(lambda: "did not pass the health check" in run.log() if run.folder.logs.is_dir() else False, 90)
    assert f"{lab.nodes[2]} did not pass the health check: its name does not resolve on" in run.log()
    support.wait_for(lambda: lab.job(run.id).get("ExcNodeList") == lab.nodes[2], 30)


def test_a_run_folder_that_a_node_does_not_see_is_told_in_seconds(lab, workspace):
    profile(nodes=2, ranks=1)
    Path("runs").mkdir(exist_ok=True)
    for node in lab.nodes[1:]:
        lab.hide(node, workspace / "runs")
    run = Submitted(lab, "hidden")
    job = run.over(60)
    assert job["ExitCode"] == "69:0", run.log()
    assert f"the run folder {run.folder.path.absolute()} is not there, or cannot be written" in run.log()


@pytest.mark.parametrize("many", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_jobs_side_by_side_on_one_node_do_not_collide(lab, workspace, many):
    profile(nodes=1, ranks=2, cpus_per_node=1, memory_per_node="10M", options=["--overcommit", "--oversubscribe"])
    lab.run("scontrol", "update", f"nodename={lab.nodes[0]}", "state=resume", check=False)
    options = [f"cluster.slurm.options=[--nodelist={lab.nodes[0]}, --overcommit, --oversubscribe]"]
    runs = [Submitted(lab, f"side{i}", *options, train__steps=6) for i in range(many)]
    for run in runs:
        assert run.over(600)["JobState"] == "COMPLETED", run.log()
        same(runs[0].folder.path, run.folder.path)


def test_of_an_array_only_the_task_that_was_requeued_starts_again(lab, workspace):
    profile(nodes=1, ranks=1, cpus_per_node=1)
    support.write({"optimizer.lr": [1e-3, 2e-3]}, "points.yaml")
    run = Submitted(lab, "grid", "--grid", "points.yaml", train__steps=60, checkpoint__every=1000, **slow(0.1))
    points = [f"runs/grid-{i}" for i in range(2)]
    support.wait_for(lambda: all(max(support.steps(p), default=0) > 8 for p in points), 120)
    lab.run("scontrol", "requeue", f"{run.id}_1")
    support.wait_for(lambda: {job["JobState"] for job in lab.jobs(run.id)} == {"COMPLETED"}, 180)
    begun = [sum('"started"' in line for line in Path(p, "jobs.jsonl").read_text().splitlines()) for p in points]
    assert begun == [1, 2]
    assert all(max(support.steps(p)) == 60 for p in points)
    assert "SLURM_CONF" not in os.environ
