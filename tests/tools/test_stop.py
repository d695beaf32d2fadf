"""The file STOP of a run folder: every start of a run heeds it, and the next one by a person removes it."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import support
from rich.console import Console
from support import paused_run
from support.job_stories import SUBMITTED, run, started

from launcher.config.errors import UserError
from launcher.schedulers import _slurm_queue as slurm_queue
from launcher.storage import job_log, lease, stop_file
from launcher.storage.run_dir import RunDir
from launcher.tools import stop


def slow(**changes):
    support.plugin("slow", support.SLOW)
    return support.write(support.small("x", train__steps=400, sinks=["jsonl", {"kind": "own.slow"}], **changes))


def test_stop_waits_until_the_run_has_left_and_says_the_saved_step(workspace):
    """6 s: a run is held in a step, so that its status shows that it is stopping, and started again afterwards."""
    paused_run.write()
    held = paused_run.LeaseHeld("run", "step").begin()
    support.launcher("stop", "runs/held", "--no-wait")
    (shown,) = json.loads(support.launcher("status", "runs/held", "--json").stdout)
    assert (shown["state"]["name"], shown["state"]["reason"]) == ("running", "stopping")
    assert "running: stopping" in support.launcher("status").stdout
    waits = support.start("stop", "held")
    time.sleep(1)
    assert waits.poll() is None
    Path("hold-step").unlink()
    said = waits.communicate(timeout=60)[0]
    assert waits.returncode == 0
    assert said.splitlines()[-1] == "stopped: step 3 is saved; launcher run or launcher submit goes on with it"
    assert (held.process.wait(60), paused_run.saved()[-1]) == (75, 3)
    refused = support.launcher("stop", "held", code=2)
    assert refused.stderr == "runs/held: nothing runs there: it is stopped\n"
    again = support.launcher("run", "recipe.yaml", "--ranks", 2)
    assert f"{Path('runs/held/STOP')} was left by an earlier stop, and is removed" in " ".join(again.stderr.split())
    assert list(support.steps("runs/held")) == [1, 2, 3, 4, 5, 6]
    assert not Path("runs/held/STOP").exists()


@pytest.mark.parametrize("start", [pytest.param("torchrun", marks=pytest.mark.soak), "by hand"])
def test_the_file_stops_other_starts_too(workspace, start):
    """6 s each: neither torchrun nor its ranks get a signal."""
    ranks = subprocess.Popen(
        support.starts(slow(), 2)[start], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    support.wait_for_step("runs/x", 3, ranks)
    Path("runs/x/STOP").touch()
    code = ranks.wait(90)
    assert code == (75 if start == "torchrun" else 1)
    assert RunDir(Path("runs/x")).whole()[-1].step == max(support.steps("runs/x")) < 400


@pytest.mark.parametrize(
    ("name", "value", "by_itself"),
    [("TORCHELASTIC_RESTART_COUNT", "0", False), ("TORCHELASTIC_RESTART_COUNT", "2", True),
     ("SLURM_RESTART_COUNT", "1", True), ("LAUNCHER_JOB", "12", True), ("LAUNCHER_PID", "12", True)],
)  # fmt: skip
def test_only_a_start_by_a_person_removes_the_file(tmp_path, name, value, by_itself):
    folder = RunDir(tmp_path)
    stop_file.write(folder)
    left = stop_file.left_before(folder, {name: value})
    assert (left is None) is by_itself
    assert (stop_file.remove(folder, left) is None) is by_itself
    assert stop_file.exists(folder) is by_itself


def test_a_file_that_was_made_during_the_start_is_heeded(tmp_path):
    folder = RunDir(tmp_path)
    assert stop_file.remove(folder, stop_file.left_before(folder, {})) is None
    stop_file.write(folder)
    left = stop_file.left_before(folder, {})
    os.utime(tmp_path / "STOP", (1, 1))
    assert stop_file.remove(folder, left) is None
    assert stop_file.exists(folder)


def test_a_job_that_waits_is_cancelled(tmp_path, monkeypatch, capsys):
    cancelled = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_queue, "job", lambda id: slurm_queue.Job(id, "one", "PENDING"))
    monkeypatch.setattr(slurm_queue, "cancel", lambda ids: cancelled.append(list(ids)))
    folder = run(tmp_path / "runs/one", events=[SUBMITTED])
    assert stop.stop("one", True, Console(width=200)) == 0
    assert cancelled == [["12"]]
    assert "job 12 is cancelled: it was waiting" in capsys.readouterr().out
    assert not stop_file.exists(folder)


def test_a_run_that_is_over_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm_queue, "job", lambda id: slurm_queue.Job(id, "one", "COMPLETED"))
    run(tmp_path / "runs/one", events=[SUBMITTED, started()])
    with pytest.raises(UserError, match="nothing runs there: it is "):
        stop.stop("one", True, Console())


def test_a_run_whose_ranks_are_being_started_can_be_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path / "runs/one")
    job_log.append(folder, {"event": "started", "job": job_log.BY_HAND})
    with lease.claim(folder.path, ".start"):
        assert stop.stop("one", False, Console()) == 0
    assert stop_file.exists(folder)
    with pytest.raises(UserError, match="nothing runs there: it is killed"):
        stop.stop("one", True, Console())
