"""A run whose output is lost trains to its end, with the exit code that it would have had."""

import os
import subprocess
from pathlib import Path

import pytest
import support

STARTS = support.starts("recipe.yaml", 1)


def gone():
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


LOST = {"pipe": (gone, "Broken pipe"), "disk": (lambda: os.open("/dev/full", os.O_WRONLY), "No space left on device")}


@pytest.mark.parametrize(
    ("start", "what", "errors"), [("run", "pipe", True), ("torchrun", "disk", False), ("by hand", "pipe", False)]
)
def test_lost_output_ends_no_run(workspace, start, what, errors):
    """Each way to start and each way to lose, 5 s each. `errors`: standard error is lost too."""
    support.write(support.small(sinks=[{"kind": "console", "every": 0}, "jsonl"]))
    opened, why = LOST[what]
    lost = opened()
    done = subprocess.run(
        STARTS[start], stdout=lost, stderr=lost if errors else subprocess.PIPE, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert support.steps("runs/tiny")[6]
    log = Path("runs/tiny/logs/rank0.log").read_text().splitlines()
    assert [line for line in log if line.startswith("note: stdout is lost")] == [
        f"note: stdout is lost ({why}): it falls silent, the run goes on"
    ]
    assert [line.split()[1] for line in log if line.startswith("step ")] == [f"{step}/6" for step in range(1, 7)]


def test_a_reader_that_ends_early_ends_what_only_prints(workspace):
    support.write(support.small())
    done = subprocess.run(
        support.command("plan", "recipe.yaml"), stdout=gone(), stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    full = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run(
        support.command("plan", "recipe.yaml"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("No space left on device: nothing more can be written")
