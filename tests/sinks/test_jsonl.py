"""metrics.jsonl: whole lines, in the order they were written, whatever happens to the writer."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import support

from launcher.sinks import jsonl
from launcher.storage.disk_full import DiskFull


def written(about):
    return (about.folder / "metrics.jsonl").read_text(encoding="utf-8")


def test_each_line_is_a_whole_record(about, training, evaluation):
    records = [evaluation(0), training(1), training(2), evaluation(2)]
    sink = jsonl.Sink(jsonl.Config(), about())
    for number, record in enumerate(records, start=1):
        sink.write(record)
        assert written(about()).count("\n") == number, "a line is there as soon as it is written"
    sink.close(True)
    assert [json.loads(line) for line in written(about()).splitlines()] == records


def test_a_resume_adds_lines_and_takes_none_away(about, training):
    for start in (0, 2):
        sink = jsonl.Sink(jsonl.Config(), about(start=start))
        for step in range(start + 1, start + 4):
            sink.write(training(step))
        sink.close(False)
    steps = [json.loads(line)["step"] for line in written(about()).splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5]


def test_numbers_keep_every_digit(about, training):
    sink = jsonl.Sink(jsonl.Config(), about())
    sink.write({**training(1), "loss": 0.1 + 0.2, "grad_norm": 1e-300})
    sink.close(True)
    record = json.loads(written(about()))
    assert (record["loss"], record["grad_norm"]) == (0.1 + 0.2, 1e-300)


WRITER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from launcher.sinks import jsonl

sink = jsonl.Sink(jsonl.Config(), SimpleNamespace(folder=Path(sys.argv[1])))
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


def test_on_a_full_disk_lines_wait_and_none_is_lost_or_cut(about, training, tmp_path, capsys):
    records = [training(step) for step in range(1, 61)]
    disk = tmp_path / "disk"
    with support.tmpfs(disk, "8k") as resize:
        known = about(folder=disk)
        (disk / "filler").write_bytes(bytes(4096 - 500))
        sink = jsonl.Sink(jsonl.Config(), known)
        for record in records[:50]:
            sink.write(record)
        said = capsys.readouterr().out.splitlines()
        assert len(said) == 1
        assert said[0].startswith(f"metrics.jsonl: the disk of {disk} is full: ")
        assert said[0].endswith("; its lines wait in memory, training goes on")
        assert len(written(known)) == 4096, "as much of a line as there was room for"
        resize("1m")
        for record in records[50:]:
            sink.write(record)
        sink.close(True)
        assert [json.loads(line) for line in written(known).splitlines()] == records
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_on_a_disk_that_fails_for_a_while_lines_wait_too(about, training, tmp_path, monkeypatch, capsys, number):
    sink, write = jsonl.Sink(jsonl.Config(), about(folder=tmp_path)), os.write

    def fail(file, data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    sink.write(training(1))
    monkeypatch.setattr(os, "write", write)
    assert capsys.readouterr().out.startswith(f"metrics.jsonl: the disk of {tmp_path} ")
    sink.write(training(2))
    sink.close(True)
    assert [json.loads(line)["step"] for line in written(about(folder=tmp_path)).splitlines()] == [1, 2]


def test_lines_that_never_get_room_are_the_runs_failure(about, training, tmp_path):
    disk = tmp_path / "disk"
    with support.tmpfs(disk, "4k"):
        (disk / "filler").write_bytes(bytes(4096))
        sink = jsonl.Sink(jsonl.Config(), about(folder=disk))
        for step in (1, 2):
            sink.write(training(step))
        with pytest.raises(DiskFull, match=rf"^2 lines of {disk}/metrics.jsonl could not be written: the disk of"):
            sink.close(True)
        assert written(about(folder=disk)) == ""


def test_lines_without_end_are_not_held(about, training, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_MOST_WAITING", 600)
    disk = tmp_path / "disk"
    with support.tmpfs(disk, "4k"):
        (disk / "filler").write_bytes(bytes(4096))
        sink = jsonl.Sink(jsonl.Config(), about(folder=disk))
        with pytest.raises(DiskFull, match="is full"):
            for step in range(1, 20):
                sink.write(training(step))
        assert 600 < len(sink._waiting) < 1000


@pytest.mark.parametrize("value", [True, "good", [1.0], {"a": 1.0}], ids=repr)
def test_what_no_reader_takes_is_not_written(about, value):
    """It would be called damage when the run is gone on with."""
    sink = jsonl.Sink(jsonl.Config(), about())
    with pytest.raises(TypeError, match="a metric cannot be recorded: eval/own: should be a number"):
        sink.write({"step": 5, "eval/own": value})
    sink.close(True)
    assert (about().folder / "metrics.jsonl").read_text() == ""
