"""`launcher logs`: lines of several files in one order, and of a run that is followed."""

import tracemalloc
from pathlib import Path

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from support import killed_run
from support.job_stories import SUBMITTED, run

from launcher.config.errors import UserError
from launcher.tools import run_logs
from launcher.tools.run_logs import LogFile

FIRST, SECOND = "2026-11-30 03:00:01,250", "2026-11-30 03:00:02,000"
SINKS = "sinks=[{kind: console, every: 0}, jsonl, {kind: own.sink}]"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run of two ranks in a job."""
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path / "runs" / "one", events=[SUBMITTED])
    folder.logs.mkdir()
    for name, text in {
        "rank0": f"tiny: 6 steps\n{SECOND} rank 0 WARNING slow\nhalf a line",
        "rank1": f"{FIRST} rank 1 ERROR no room\nTraceback\n  of it\n2026-11-30 03:00:03,000 rank 1 INFO left\n",
        "rank10": "",
        "job-12": f"{FIRST} of the \x1b[31mscript\x1b[0m\n\x1b]0;title\x07a bar\t100%\x07\n",
        "stacks-rank0": "File",
    }.items():
        (folder.logs / f"{name}{'.txt' if name.startswith('stacks') else '.log'}").write_text(text)
    return folder


@pytest.fixture
def said(printed):
    """The lines that the command prints."""

    def make(name="one", rank=None, count=100, **options):
        return printed(lambda console: run_logs.logs(name, rank, False, count, console), **options)

    return make


def test_lines_of_all_logs_are_in_the_order_of_their_times(folder, said):
    lines = said()
    assert lines == [
        f"job 12  | {FIRST} of the \x1b[31mscript\x1b[0m", "job 12  | \x1b]0;title\x07a bar\t100%\x07",
        f"rank 1  | {FIRST} rank 1 ERROR no room", "rank 1  | Traceback", "rank 1  |   of it",
        "rank 0  | tiny: 6 steps", f"rank 0  | {SECOND} rank 0 WARNING slow", "rank 0  | half a line",
        "rank 1  | 2026-11-30 03:00:03,000 rank 1 INFO left",
    ]  # fmt: skip
    assert said(count=2) == lines[-2:]
    assert said(rank=0, count=0) == [line.partition(" | ")[2] for line in lines if "rank 0  |" in line]


def test_all_lines_of_a_large_log_are_not_kept_in_memory(folder):
    """A log grows for weeks; printing it needs no more memory than a block of it."""
    with (folder.logs / "rank1.log").open("w") as out:
        out.writelines(f"{FIRST} line {number}\n" for number in range(100_000))
    size = (folder.logs / "rank1.log").stat().st_size
    tracemalloc.start()
    try:
        count = sum(1 for _ in run_logs.RunLogs(folder, rank=1).last(0))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100_000 and most < size / 4


def test_a_log_without_times_stands_at_its_last_write_when_all_lines_are_printed(folder, said):
    (folder.logs / "rank1.log").write_text("no time\nat all\n")
    assert said(count=0)[-2:] == ["rank 1  | no time", "rank 1  | at all"]


def test_a_terminal_gets_no_control_characters(folder, said):
    (folder.logs / "rank1.log").write_text("10%\r20%\x1b[2K\r30%\x9b\n")
    lines = said(styled=True)
    assert lines[:2] == [f"job 12  | {FIRST} of the script", "job 12  | a bar   100%?"]
    assert "rank 1  | 30%?" in lines


def test_what_is_not_there_is_a_sentence(folder, said):
    with pytest.raises(UserError, match="two: no run is there"):
        said("two")
    with pytest.raises(UserError, match=r"no log of rank 7 \(there are rank0.log, rank1.log, rank10.log\)$"):
        said(rank=7)
    for file in folder.logs.iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"^runs/one: no log is there yet: no rank has started \(-f waits for it\)$"):
        said()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b" * 50]), max_size=40), st.booleans(), st.integers(1, 9))
def test_the_last_lines_of_a_file(tmp_path_factory, lines, ends, count):
    file = tmp_path_factory.mktemp("logs") / "rank0.log"
    text = "\n".join(lines) + ("\n" if ends else "")
    file.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_logs, "_BLOCK", 16)
        found = LogFile(file, "rank 0").last_lines(count)
    assert [line.text for line in found] == text.removesuffix("\n").split("\n")[-count:] if text else found == []


def test_a_file_that_grows_and_one_that_begins_anew(tmp_path):
    file = tmp_path / "rank0.log"
    log = LogFile(file, "rank 0")
    assert log.new_lines() == []
    file.write_text("one\ntw")
    assert [line.text for line in log.new_lines()] == ["one"]
    file.write_text("one\ntwo\n")
    assert [line.text for line in log.new_lines()] == ["two"]
    file.write_text("new\n")
    assert [line.text for line in log.new_lines()] == ["new"]


def test_a_run_is_followed_from_before_its_beginning_over_a_restart_to_its_end(workspace):
    """12 s. Nothing is lost or printed twice, whatever is being written when it is read."""
    killed_run.write(60)
    follows = support.start("logs", "killed", "-f", "-n", 0)
    Path("slow").touch()
    ranks = support.start(
        "run",
        "recipe.yaml",
        "--ranks",
        2,
        "--max-restarts",
        1,
        "sinks=[{kind: console, every: 0}, jsonl, {kind: own.sink}]",
    )
    support.wait_for_step("runs/killed", 6, ranks)
    killed_run.kill_rank(1)
    assert ranks.wait(240) == 0
    text = follows.communicate(timeout=60)[0]
    assert follows.returncode == 0
    lines = text.splitlines()
    assert lines[0] == "killed: no run is there yet: waiting for it"
    assert lines[-1] == "runs/killed: done"
    for number in (0, 1):
        own = [line.partition(" | ")[2] for line in lines if line.startswith(f"rank {number} | ")]
        assert own == Path(f"runs/killed/logs/rank{number}.log").read_text().splitlines()
    assert len([line for line in lines if line.startswith("rank 0 | killed: 60 steps")]) == 2
