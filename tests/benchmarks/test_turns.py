"""Jobs take their steps in turns."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks._turns import Job

ROOT = Path(__file__).parents[2]
WORK = """
import sys
from pathlib import Path
from benchmarks._turns import Gate
gate = Gate(Path.cwd(), 0)
gate.wait(1)
for step in range(1, int(sys.argv[1]) + 1):
    gate.record(step, 1 / step)
    gate.wait(step + 1)
sys.exit("no more work")
"""


def job(folder: Path, steps: int) -> Job:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return Job("worker", folder, [sys.executable, "-c", WORK, str(steps)], 1, environment)


def test_a_job_takes_the_steps_of_its_turn_and_then_waits(tmp_path: Path) -> None:
    one, other = job(tmp_path / "one", 9), job(tmp_path / "other", 9)
    try:
        one.start()
        other.start()
        assert [line["step"] for line in one.take(2).lines[0]] == [1, 2]
        turn = other.take(3)
        assert [line["loss"] for line in turn.lines[0]] == [1.0, 0.5, 1 / 3]
        assert turn.seconds > 0
        assert len(one.lines(0)) == 2
        assert [line["step"] for line in one.take(1).lines[0]] == [3]
    finally:
        one.stop()
        other.stop()


def test_a_job_that_ends_is_an_error_with_its_output(tmp_path: Path) -> None:
    one = job(tmp_path / "one", 1)
    one.start()
    try:
        with pytest.raises(RuntimeError, match=r"worker has ended before step 3\nno more work"):
            one.take(3)
    finally:
        one.stop()


def test_a_job_ends_if_its_harness_is_killed(tmp_path: Path) -> None:
    """Nobody would let it go on, and it would disturb the next measurement."""
    folder = tmp_path / "one"
    begun = f"Job('worker', Path({str(folder)!r}), {job(folder, 9).command!r}, 1, os.environ).start()"
    code = f"import os, time; from pathlib import Path; from benchmarks._turns import Job; {begun}; time.sleep(1000)"
    killed = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        while not (folder / "steps-0.jsonl").exists():
            time.sleep(0.05)
        (worker,) = psutil.Process(killed.pid).children()
    finally:
        killed.kill()
        killed.wait()
    worker.wait(timeout=120)
