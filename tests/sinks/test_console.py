"""The console: plain lines in a file, a progress bar on a terminal."""

import re
import sys

import pexpect
import pytest

from launcher.sinks import console


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
import sys, time
from pathlib import Path
from launcher.sinks import RunInfo, console

about = RunInfo("tiny", Path(), {}, 6, 0, 0.0, 0, "12 = 12", ["a note"])
sink = console.Sink(console.Config(), about)
for step in range(1, 7):
    sink.write({"step": step, "loss": 5 - step / 8, "lr": 1e-3, "tokens": 250 * step, "seconds": 0.5 * step})
    if step == 3:
        sink.write({"step": 3, "eval/loss": 4.25})
    time.sleep(0.15)
sink.close(True)
print("after the bar")
"""


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left(columns):
    environment = {"TERM": "xterm", "COLUMNS": str(columns), "PATH": ""}
    child = pexpect.spawn(
        sys.executable, ["-c", RUN], dimensions=(24, columns), encoding="utf-8", timeout=60, env=environment
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    said = [ESCAPES.sub("", line).strip() for line in re.split(r"[\r\n]+", child.before)]
    assert said[0] == "tiny: 6 steps; global batch 12 = 12"
    assert said[1] == "note: a note"
    assert "step      3  evaluation  loss 4.25" in said
    bars = [line for line in said if re.match(r"step \d/6 ", line)]
    assert len(bars) > 3
    told = r"step 6/6 ━+ loss 4\.2500  lr 1\.00e-03  500 tokens/s 0:00:\d\d left 0:00:00"
    assert re.fullmatch(told, bars[-1]), bars[-1]
    assert all("left" in bar and len(bar) <= columns for bar in bars)
    assert said[-2:] == ["after the bar", ""], "the bar is over"


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
