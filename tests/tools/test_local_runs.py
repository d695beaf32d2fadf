"""`launcher status` for runs that were started on this machine."""

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import support

from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools.status import run_events, run_status


def status(name):
    (one,) = json.loads(support.launcher("status", name, "--json").stdout)
    return one


def slow():
    """A recipe of 400 slow steps."""
    support.plugin("slow", support.SLOW)
    return support.write(support.small(train__steps=400, sinks=["jsonl", {"kind": "own.slow"}]))


def test_a_run_that_was_stopped_killed_and_finished(workspace):
    """Three starts of one run, 15 s."""
    words = "run", slow(), "--ranks", 2
    run = support.start(*words)
    support.wait_for_step("runs/tiny", 2, run)
    assert status("tiny")["state"]["name"] == "running"
    run.send_signal(signal.SIGTERM)
    assert run.wait(240) == 75
    one = status("tiny")
    assert (one["state"]["name"], one["error"], one["job"], one["requeues"]) == ("stopped", "", "", 0)
    saved = one["checkpoint"]
    assert saved == max(support.steps("runs/tiny"))

    run = support.start(*words)
    support.wait_for_step("runs/tiny", saved + 2, run)
    ranks = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait(240)
    psutil.wait_procs(ranks, timeout=240)
    one = status("tiny")
    assert (one["state"]["name"], one["checkpoint"]) == ("killed", max(support.steps("runs/tiny")))
    lines = support.launcher("status", "tiny").stdout
    assert "its end was not recorded: killed, or its machine went down" in lines
    assert f"it goes on from step {one['checkpoint']}" in lines

    support.launcher(*words, "sinks=[jsonl]")
    one = status("tiny")
    assert (one["state"]["name"], one["step"], one["error"]) == ("done", 400, "")
    assert [start["why"] for start in one["starts"]] == ["told", "", "done"]


STARTS = support.starts("recipe.yaml", 2)


@pytest.mark.parametrize("start", list(STARTS))
def test_a_run_that_crashed(workspace, start):
    """For each starter, 5 s each: the run has failed, and the log of the failed rank has the traceback."""
    support.plugin("faulty", support.FAULTY)
    support.write(support.small(train__steps=20, task__kind="own.faulty"))
    assert subprocess.run(STARTS[start], capture_output=True, check=False).returncode == 1
    one = status("tiny")
    assert one["state"]["name"] == "failed"
    assert "Traceback" in Path("runs/tiny/logs/rank1.log").read_text()
    if start == "by hand":  # where rank 0 knows of no other's error
        assert one["error"] == "a rank lost another, whose own log says why"
    else:
        assert one["error"].startswith("rank 1 failed at step 5: ValueError: the third law of thermodynamics")
        assert one["log"] == "runs/tiny/logs/rank1.log"


def test_a_job_of_a_scheduler_is_found_behind_a_start_by_hand(tmp_path):
    folder = RunDir(tmp_path)
    job_log.append(folder, {"event": "submitted", "job": "12"})
    job_log.append(folder, {"event": "started", "job": job_log.BY_HAND, "nodes": ["a"]})
    assert run_events.newest_job(folder).name == job_log.BY_HAND
    assert run_status.newest_scheduled_job(folder).ids == ("12",)
