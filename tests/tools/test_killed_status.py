"""`launcher status` after every process of a run was killed, in each phase of its life."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import support
from support import paused_run

from launcher.tools.status import run_status, status
from launcher.tools.status.run_events import JobSchedulers


def read():
    return run_status.read_status(run_status.find_run("held"), JobSchedulers())


def kill_all():
    """Kill the launcher, its agent's server and all ranks, the ones that notice it first."""
    for process in [psutil.Process(int(line.split()[0])) for line in paused_run.left()]:
        with suppress(psutil.Error):
            os.kill(process.pid, signal.SIGKILL)
    support.wait_for(lambda: not paused_run.left(), 60)


@pytest.mark.parametrize(
    ("phase", "saved"),
    [
        ("building", None),
        pytest.param("step", 2, marks=pytest.mark.soak),
        ("saving", 2),
        pytest.param("evaluating", 2, marks=pytest.mark.soak),
        ("ending", 6),
    ],
)
def test_a_run_that_is_killed_as_a_whole_is_not_running(workspace, printed, phase, saved):
    """5 s each. Before, it runs; afterwards, it says what it has saved and how to go on."""
    paused_run.write()
    held = paused_run.LeaseHeld("run", phase).begin()
    one = read()
    assert (one.state.name, one.state.reason, one.command) == ("running", "", "")
    assert one.step == {"building": 0, "step": 2, "saving": 4, "evaluating": 4, "ending": 6}[phase]
    kill_all()
    held.process.wait(60)
    one = read()
    assert (one.state.name, one.checkpoint, one.step) == ("done" if saved == 6 else "killed", saved, saved or 0)
    lines = "\n".join(printed(lambda console: status.status(["held"], False, console)))
    if saved == 6:
        assert "to go on" not in lines
        return
    assert (f"it goes on from step {saved}" if saved else "no checkpoint was saved: it begins anew") in lines
    assert "to go on: launcher run recipe.yaml --ranks 2" in lines


def test_a_run_whose_ranks_are_not_there_yet_is_starting(workspace):
    """6 s. The launcher lives, and no rank has the right to write: at the beginning, and while they start again."""
    paused_run.write(seed=41)  # data that no other test has prepared
    held = paused_run.LeaseHeld("run", "preparing").begin()
    assert not Path("runs/held").exists(), "there is nothing to show while data is prepared"
    Path("hold-step").touch()
    Path("hold-preparing").unlink()
    states = list[tuple[str, str]]()

    def observe(until):
        while not until():
            if Path("runs/held/plan.json").exists():
                found = read().state
                states.append((found.name, found.reason))

    observe(lambda: Path("at-step").exists())
    assert set(states) <= {("ready", ""), ("running", "starting"), ("running", "")}
    assert ("running", "starting") in states
    kill_all()
    held.process.wait(60)
    assert read().state.name == "killed"


def test_a_run_of_another_starter_is_starting_until_its_first_rank_writes(workspace):
    """10 s. Its command gives the right to start to rank 0, which is far from taking it when the start is logged."""
    paused_run.write()
    Path("hold-building").touch()
    command = support.command("run", "recipe.yaml", "--ranks", 2, "--via", "torchrun")
    states = list[tuple[str, str]]()
    with Path("said").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    while not Path("at-building").exists() and process.poll() is None:
        if Path("runs/held/jobs.jsonl").exists():
            found = read().state
            states.append((found.name, found.reason))
    assert process.poll() is None, Path("said").read_text()
    assert set(states) <= {("running", "starting"), ("running", "")} and states[0] == ("running", "starting")
    kill_all()
    process.wait(60)
    assert read().state.name == "killed"
