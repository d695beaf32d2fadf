"""The console of a real run in a terminal, whose rank 0 is killed and which is then stopped."""

import re

import pexpect
import support
from support import killed_run, screen


def test_a_run_in_a_terminal_that_loses_rank_0_and_is_interrupted(workspace):
    """12 s. What two processes draw on one terminal: the launcher's lines stay above the display of rank 0, also while
    it is dead, and the cursor is where the shell goes on."""
    killed_run.write(2000)
    child = screen.spawn(
        support.command("run", "recipe.yaml", "--ranks", 2, "--max-restarts", 1, "sinks=[console, jsonl]",
                        "checkpoint.every=1"), 200,
    )  # fmt: skip
    child.expect("killed.{0,9}: 2000 steps")  # after the progress of the preparation
    said = child.after
    child.expect(r"step [1-9][\d,]*/2,000")
    killed_run.kill_rank(0)
    said += child.before + child.after
    child.expect(r"restarts .{0,9}1")
    said += child.before + child.after
    child.expect(r"/2,000")
    said += child.before + child.after
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 75
    there = screen.Screen(200, 24).feed(said + child.before)
    assert (there.modes, there.column) == ([], 0)
    lines = there.text.splitlines()
    for line in (
        r"rank 0 was killed by SIGKILL.*; starting the ranks again \(1 of 1\)",
        r"(\^C)?stopping: all ranks leave at the end of this step \(once more ends them at once\)",
        r"rank 0 died at [\d:]+; step \d+ after [\d.]+ s",
        "stopped: step .* is saved .*",
        "to go on: launcher run .*",
    ):
        assert len([one for one in lines if re.fullmatch(line, one)]) == 1, (line, there.text)
    assert len([one for one in lines if one.startswith("killed step ")]) == 1, there.text
    assert any("restarted: rank 0 was killed" in one for one in lines)
    log = (workspace / "runs/killed/logs/rank0.log").read_text()
    assert log.count("killed step ") == 1, "its last state, and no frame"
    assert "\x1b" not in log
