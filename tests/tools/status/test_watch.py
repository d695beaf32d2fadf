"""`launcher status --watch` in a terminal, in a narrower one, and without one."""

import pexpect
import pytest
import support
from support import screen
from support.job_stories import run

from launcher.config.errors import UserError
from launcher.tools.status import status


def test_the_table_follows_the_run_and_the_terminal_until_interrupted(tmp_path, monkeypatch):
    """5 s. A terminal that becomes narrower is drawn anew as a whole, and the cursor is never hidden."""
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path / "runs" / "one", checkpoint=40, loss=2.0)
    child = screen.spawn(support.command("status", "--watch"), 80)
    child.expect("40/100")
    child.setwinsize(24, 40)
    (folder.checkpoints / "step-00000040").rename(folder.checkpoints / "step-00000060")
    child.expect("60/100")
    said = child.before + child.after
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    there = screen.Screen(40).feed(said + child.before)
    assert there.modes == []
    assert [line.split()[:3] for line in there.text.splitlines() if line] == [
        ["run", "state", "step"], ["one", "stopped", "60/100"],
    ]  # fmt: skip


def test_json_has_one_moment(tmp_path, monkeypatch, printed):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--json: "):
        printed(lambda console: status.status([], True, console, watched=True))


def test_without_a_terminal_it_is_printed_each_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "runs" / "one", checkpoint=40, loss=2.0)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("launcher.tools.status.watch.time.sleep", sleep)
    status.status([], False, None, watched=True)
    assert capsys.readouterr().out.count("40/100") == 2
    assert pauses == [2.0, 2.0]
