"""metrics.jsonl: whole lines, in the order they were written, whatever happens to the writer."""

import json
import signal
import subprocess
import sys

from launcher.sinks import jsonl


def written(about):
    return (about.folder / "metrics.jsonl").read_text(encoding="utf-8")


def test_each_line_is_a_whole_record(about, training, evaluation):
    records = [evaluation(0), training(1), training(2), evaluation(2)]
    sink = jsonl.open(jsonl.Config(), about())
    for number, record in enumerate(records, start=1):
        sink.write(record)
        assert written(about()).count("\n") == number, "a line is there as soon as it is written"
    sink.close(True)
    assert [json.loads(line) for line in written(about()).splitlines()] == records


def test_a_resume_adds_lines_and_takes_none_away(about, training):
    for start in (0, 2):
        sink = jsonl.open(jsonl.Config(), about(start=start))
        for step in range(start + 1, start + 4):
            sink.write(training(step))
        sink.close(False)
    steps = [json.loads(line)["step"] for line in written(about()).splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5]


def test_numbers_keep_every_digit(about, training):
    sink = jsonl.open(jsonl.Config(), about())
    sink.write({**training(1), "loss": 0.1 + 0.2, "grad_norm": 1e-300})
    sink.close(True)
    record = json.loads(written(about()))
    assert (record["loss"], record["grad_norm"]) == (0.1 + 0.2, 1e-300)


WRITER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from launcher.sinks import jsonl

sink = jsonl.open(jsonl.Config(), SimpleNamespace(folder=Path(sys.argv[1])))
step = 0
while True:
    step += 1
    sink.write({"step": step, "loss": 1.0, "data": "f" * 200})
    if step == 200:
        print("enough", flush=True)
"""


def test_a_writer_that_is_killed_leaves_whole_lines(about):
    command = [sys.executable, "-c", WRITER, str(about().folder)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "enough\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    lines = written(about()).split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) >= 200
