"""The console: plain lines in a file, a live display on a terminal."""

import re
import sys
from pathlib import Path

import pexpect
import pytest
from support import screen

from launcher.distributed import output_streams
from launcher.sinks import console
from launcher.sinks._run_view import RunView, StepPace
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


@pytest.fixture
def lines(capsys, about, training, evaluation):
    """The lines of a run that is written to no terminal."""

    def make(records=None, every=0.0, **given):
        sink = console.Sink(console.Config(every=every), about(**given))
        for record in records or [evaluation(0), training(1), training(2), evaluation(2)]:
            sink.write(record)
        sink.close(True)
        return capsys.readouterr().out.splitlines()

    return make


def test_lines_are_plain_where_there_is_no_terminal(lines):
    assert lines() == [
        "tiny: 6 steps; global batch 12 = 2 ranks x 3 micro-batches x 2 samples",
        "step      0  evaluation  loss 4.25  accuracy 0.75",
        "step      1/6  loss 4.8750  lr 1.00e-03  500 tokens/s  2 s left",
        "step      2/6  loss 4.7500  lr 1.00e-03  500 tokens/s  2 s left",
        "step      2  evaluation  loss 4.25  accuracy 0.75",
    ]


def test_a_resume_is_told_and_its_speed_is_that_of_its_own_steps(lines, training):
    found = lines([training(5)], start=4, tokens=1000, seconds=2.0)
    assert found[0].startswith("tiny: 6 steps, from step 4; global batch ")
    assert "500 tokens/s" in found[1]


def test_between_lines_there_is_time_but_the_last_step_is_always_told(lines, training):
    found = lines([training(step) for step in range(1, 7)], every=3600.0)
    assert [line.split()[1] for line in found[1:]] == ["1/6", "6/6"]


def test_notes_are_told_as_they_are(lines, training):
    found = lines([training(1)], notes=["layer[0] stays as it is", "[bold]not markup[/]"])
    assert found[1:3] == ["note: layer[0] stays as it is", "note: [bold]not markup[/]"]


def test_long_lines_are_not_broken(lines, training, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert lines([training(1)], notes=["word " * 30])[1] == "note: " + "word " * 30


def test_records_without_a_loss_that_is_a_number_are_told_too(lines, training):
    assert "loss nan" in lines([{**training(1), "loss": float("nan")}])[1]


def test_steps_that_took_no_time_to_speak_of_are_told(lines, training):
    assert "0 tokens/s" in lines([{**training(1), "seconds": 0.0}])[1]


RUN = """
import os, sys, time
from pathlib import Path
from launcher.distributed import output_streams
from launcher.sinks import RunInfo, console, warn

log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
output_streams.copy_to(log, 1)
about = RunInfo("tiny", Path(), {"checkpoint": {"every": 4}}, 6, 0, 0.0, 0, "12 = 12", ["a note"])
sink = console.Sink(console.Config(), about)
for step in range(1, 7):
    measured = {"mfu": 0.412, "goodput": 0.9, "memory_reserved": 31 << 30}
    measured |= {"tokens": 250 * step, "seconds": 0.5 * step}
    sink.write({"step": step, "loss": 5 - step / 8, "lr": 1e-3, **measured})
    if step == 3:
        sink.write({"step": 3, "eval/loss": 4.25})
        warn("warning: [bold]no[/] room")
        print("a print")
        os.write(2, f"{output_streams.erasure(2)}of another process\\n".encode())
    time.sleep(0.6 if step == 3 else 0.1)
    if step == 5 and sys.argv[1] == "killed":
        time.sleep(0.6)
        os.kill(os.getpid(), 9)
sink.close(True)
print("after the display")
"""


def shown(tmp_path, monkeypatch, columns, end, rows=24):
    """The screen after the run, and its log."""
    monkeypatch.chdir(tmp_path)
    child = screen.spawn([sys.executable, "-c", RUN, end], columns, rows)
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus == (9 if end == "killed" else None)
    return screen.Screen(columns, rows).feed(child.before), Path("log").read_text().splitlines()


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_shows_the_state_of_the_run_and_its_warnings(columns, tmp_path, monkeypatch):
    there, log = shown(tmp_path, monkeypatch, columns, "closed")
    lines = there.text.splitlines()
    above = ["tiny: 6 steps; global batch 12 = 12", "note: a note", "step      3  evaluation  loss 4.25"]
    above += ["warning: [bold]no[/] room", "a print", "of another process"]
    assert lines[:6] == above
    assert re.fullmatch(r"tiny step 6/6 ━+ 100%", lines[6])
    values = " ".join(" ".join(lines[7:-2]).split())
    for value in ("loss 4.2500", "lr 1.00e-03", "tokens/s 500", "MFU 41.2%", "goodput 90.0%", "device memory 31.0 GiB"):
        assert value in values
    assert "left" not in values, "when it is over"
    assert re.search(r"host memory \d+/\d+ GiB", values)
    assert lines[-2:] == ["! step 3: warning: [bold]no[/] room", "after the display"], "and nothing else remains"
    assert max(map(len, lines)) <= columns
    assert [line.rstrip() for line in log] == [line for line in lines if line != "of another process"], (
        "which has no frame of the display"
    )


def test_a_killed_process_leaves_a_usable_terminal(tmp_path, monkeypatch):
    there, log = shown(tmp_path, monkeypatch, 80, "killed")
    assert there.modes == [], "no hidden cursor, no other screen"
    assert there.column == 0
    assert there.lines[there.row] == "", "what comes next has a line to itself, above the last state"
    assert there.lines[there.row + 1].startswith("tiny step 5/6 ")
    assert re.search(r"left \d s \(.+\) +next save \d s", there.text)
    assert log[-1] == "a print"
    there.feed(f"{output_streams.ERASE}rank 0 failed\r\n")
    assert there.text.endswith("of another process\nrank 0 failed"), "the launcher erases the display"


def test_a_terminal_with_few_lines_shows_a_part(tmp_path, monkeypatch):
    there, _ = shown(tmp_path, monkeypatch, 40, "killed", rows=6)
    assert [line for line in there.history if "step 3/6" in line] == [], "no frame is pushed out at the top"
    assert there.lines[there.row + 1].startswith("tiny step 5/6 ")


def test_restarts_and_hangs_of_this_start_are_shown(about):
    made = about()
    folder = RunDir(made.folder)
    for event, words in [("restarted", {}), ("started", {}), ("restarted", {"error": "rank 1 died"}), ("hang", {})]:
        job_log.append(folder, {"event": event, "job": "by-hand", "step": 7, **words})
    view = RunView(made, StepPace())
    text = "\n".join(map(str, view._values()))
    assert "'restarts', '1'" in text and "'hangs', '1'" in text
    assert list(view.warnings) == [(7, "restarted: rank 1 died"), (7, "hang: ")]


def test_the_next_save_is_known_by_steps_by_time_or_not(about, training):
    def until(every, step=10):
        view = RunView(about(steps=100, recipe={"checkpoint": {"every": every}}), StepPace())
        for _ in range(3):
            view.pace.add(1.0)
        view.train({**training(step)}, 500.0)
        return next((value for name, value, _ in view._values() if name == "next save"), None)

    assert until(25) == "15 s"
    assert until(200) == "90 s", "a checkpoint is saved at the end too"
    assert until("1m") == "60 s"
    assert until("auto") is until(None) is None


def test_the_time_left_does_not_go_by_the_steps_that_compile_or_stand_out(lines, training):
    """A first step of 60 s, then some of 1 and 2 s by turns, and one of 300 s among them."""
    seconds, records = 0.0, []
    for step in range(1, 101):
        seconds += 60.0 if step == 1 else 300.0 if step == 50 else 1.0 + step % 2
        records.append({**training(step), "seconds": seconds})
    found = lines(records, steps=1100)
    left = [line.rpartition("tokens/s  ")[2] for line in found[1:]]
    assert left[0] == "18 h left"
    assert left[9] == "26 min left"
    assert {line.split()[0] for line in left[9:]} <= {"26", "27", "28", "29"}


def test_names_of_runs_and_metrics_are_told_as_they_are(lines):
    found = lines([{"step": 1, "eval/top[bold]": 0.5}], name="run[red]")
    assert found[0].startswith("run[red]: 6 steps") and found[1].endswith("top[bold] 0.5")
