"""A run folder that is deleted under the run that writes into it."""

import shutil
from pathlib import Path

import support


def test_a_run_whose_folder_is_gone_ends_with_that(workspace):
    """Some 6 s: only real ranks prove what the user reads, and that nobody makes the folder again."""
    support.plugin("slow", support.SLOW)
    sinks = ["jsonl", {"kind": "own.slow"}]
    recipe = support.write(support.small("long", train__steps=400, sinks=sinks, checkpoint={"every": 20}))
    run = support.start("run", recipe, "--ranks", 2)
    support.wait_for_step("runs/long", 5, run)
    shutil.rmtree("runs/long")
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 1, out
    gone = "runs/long is gone, deleted or moved away while it was trained: the run ends, and saves nothing"
    assert out.splitlines()[-1] == gone
    assert "another start" not in out
    assert not Path("runs/long").exists()
