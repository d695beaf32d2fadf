"""Streams of a process of its own: what it prints, whatever its standard output is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.distributed import output_streams

TEXT = "naïve → 日本 … 🙂 \udcff · \xd7"


def process(code, stdout=subprocess.PIPE, **environment):
    """What a process with streams set up as lasting wrote, and its exit code."""
    words = [sys.executable, "-c", f"from launcher.distributed import output_streams\n{code}"]
    return subprocess.run(
        words, stdout=stdout, stderr=subprocess.PIPE, check=False, env={**os.environ, **environment}, timeout=60
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("lasting", [False, True])
def test_any_encoding_takes_any_text(encoding, lasting):
    code = f"output_streams.set_up({lasting})\nprint({TEXT!a})\nimport sys; print({TEXT!a}, file=sys.stderr)"
    done = process(code, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, done.stdout)
    text = done.stdout.decode(encoding)
    expected = {
        "ascii": "na\\u00efve -> \\u65e5\\u672c ... \\ud83d\\ude42 \\udcff . x",
        "latin-1": "naïve -> \\u65e5\\u672c ... \\ud83d\\ude42 \\udcff · \xd7",
        "cp1252": "naïve -> \\u65e5\\u672c … \\ud83d\\ude42 \\udcff · \xd7",
        "utf-8": TEXT.replace("\udcff", "\\udcff"),
    }
    assert text == expected[encoding] + "\n"


@given(st.text(st.characters(exclude_categories=())), st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8"]))
def test_json_loses_nothing(text, encoding):
    whole = json.dumps({"text": text}, ensure_ascii=False)
    written = whole.encode(encoding, output_streams._JSON)
    read = json.loads(written.decode(encoding))["text"]
    assert read.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")


LINES = """
import os, sys
output_streams.set_up(True)
log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print("early", flush=True)
output_streams.copy_to(log, 1)
for number in range(3):
    print("line", number)
    print("also here", file=sys.stderr)
sys.stdout.flush()
"""


@pytest.mark.parametrize("lost", ["pipe", "disk", "closed"])
def test_lost_output_raises_nothing_and_the_log_reports_it_once(tmp_path, monkeypatch, lost):
    monkeypatch.chdir(tmp_path)
    if lost == "closed":
        shell = [
            "sh",
            "-c",
            'exec "$0" -c "$1" >&- 2>&-',
            sys.executable,
            f"from launcher.distributed import output_streams\n{LINES}",
        ]
        assert subprocess.run(shell, check=False).returncode == 0
    else:
        reading, writing = os.pipe()
        os.close(reading)
        out = writing if lost == "pipe" else os.open("/dev/full", os.O_WRONLY)
        done = process(LINES, out)
        assert (done.returncode, done.stderr.decode()) == (0, "also here\n" * 3)
    told = {"pipe": "Broken pipe", "disk": "No space left on device"}
    note = [] if lost == "closed" else [f"note: stdout is lost ({told[lost]}): it falls silent, the run goes on"]
    assert Path("log").read_text().splitlines() == [*note, "line 0", "line 1", "line 2"]


def test_a_log_on_a_full_disk_raises_nothing():
    code = 'output_streams.set_up(True)\nimport os; output_streams.copy_to(os.open("/dev/full", os.O_WRONLY), 1, 2)'
    code += '; print("line")'
    done = process(code)
    assert (done.returncode, done.stdout) == (0, b"line\n")


def test_a_log_has_lines_without_control_sequences(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = "\\r\\x1b[2Kstep 1 ----\\r\\x1b[2Kstep 2 ----\\r\\x1b[2K\\x1b[1mtiny\\x1b[0m: 6 steps\\r\\nstep 3 ---"
    process(f'{LINES}\nsys.stdout.write("{drawn}"); sys.stdout.flush()')
    assert Path("log").read_text().splitlines()[-1] == "tiny: 6 steps"


def test_a_pipe_that_does_not_block_loses_nothing():
    code = 'import os; os.set_blocking(1, False); output_streams.set_up(True); print("x" * 1_000_000)'
    assert len(process(code).stdout) == 1_000_001


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_the_log_has_no_frames_of_a_display_however_they_are_written(tmp_path, size):
    frame = f"{output_streams.FRAME}\r\nstep 1\r\nloss 2\r\n\x1b[3A\r"
    text = f"first\n{output_streams.ERASE}{frame}{output_streams.ERASE}a warning\n{frame}{frame}".encode()
    text += f"{output_streams.ERASE}the last state\n".encode()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stream = output_streams._Descriptor(os.open(os.devnull, os.O_WRONLY))
    stream.copy_to(log)
    for begin in range(0, len(text), size):
        stream.write(text[begin : begin + size])
    assert (tmp_path / "log").read_text().splitlines() == ["first", "a warning", "the last state"]
