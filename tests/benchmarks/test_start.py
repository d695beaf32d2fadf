"""Jobs are started and killed after their first step, and batches far on are found."""

import os
import sys
import time
from pathlib import Path

import psutil

from benchmarks import resume, seek, start
from benchmarks._turns import Job

ROOT = Path(__file__).parents[2]
WORK = """
import os
from pathlib import Path
from benchmarks._turns import Gate
gate = Gate(Path.cwd(), 0)
gate.wait(1)
gate.record(1, 0.5, process=os.getpid())
gate.wait(2)
"""


def test_a_start_ends_with_the_first_step_of_a_job_which_is_killed(tmp_path: Path) -> None:
    work = Job("worker", tmp_path, [sys.executable, "-c", WORK], 1, {**os.environ, "PYTHONPATH": str(ROOT)})
    begin = time.monotonic()
    seconds, ((line,),) = start.until_first_step(work)
    assert begin < line["begin"] <= line["end"] <= begin + seconds + 0.5
    assert line["loss"] == 0.5
    assert not psutil.pid_exists(int(line["process"]))


def test_the_launcher_and_a_loader_that_skips_reach_a_batch_far_on(tmp_path: Path) -> None:
    """Prove that both scripts read the same prepared corpus, and find a whole batch beyond its first epoch."""
    seek.write_corpus(tmp_path, 100_000)
    for script in resume.SIDES.values():
        assert resume.timed(script, tmp_path, 150_000)() > 0
