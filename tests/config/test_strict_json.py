"""JSON files of any content, and what may stand in their place."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from launcher.config import strict_json
from launcher.config.strict_json import Count, DamagedFile, PlainName, Stored, Word, Wrong


class Sample(Stored):
    step: Count
    loss: float = 0.0
    word: Word = ""
    name: PlainName = "x"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("file.json")


def refused(read) -> str:
    with pytest.raises(DamagedFile) as error:
        read()
    (line,) = str(error.value).splitlines()
    return line


def test_a_document_is_read_as_its_type(file):
    file.write_text('{"step": 3, "loss": 1, "of a newer launcher": [1]}')
    assert strict_json.read(file, Sample, "x") == Sample(step=3, loss=1.0)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b'{"step": 1}\0', "not a JSON object"),
        (b"{}", "step: missing"),
        (b'{"step": "x"}', "step: should be a valid integer"),
        (b'{"step": 1.0}', "step: should be a valid integer"),
        (b'{"step": true}', "step: should be a valid integer"),
        (b'{"step": -1}', "step: should be greater than or equal to 0"),
        (b'{"step": 1, "loss": NaN}', "loss: should be a finite number"),
        (b'{"step": 1, "loss": 1e999}', "loss: should be a finite number"),
        (b'{"step": 1, "loss": []}', "loss: should be a valid number"),
        (b'{"step": 1, "word": 5}', "word: should be a valid string"),
        (b'{"step": 1, "word": "a\\u001b[2J"}', "word: has a control character"),
        (b'{"step": 1, "word": "\\ud800"}', "half a character (a lone surrogate)"),
        (b'{"step": 1, "name": "../x"}', "name: should be a name without a path"),
        (b'{"step": 1, "name": ".."}', "name: should be a name without a path"),
        (b'{"step": 9223372036854775808}', "a number beyond 64 bits"),
        (b'{"step": ' + b"9" * 6000 + b"}", "a number beyond 64 bits"),
        (b'{"step": 1, "step": 2}', "step: stands there twice"),
        (b'{"step": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"step": [' + b"[]," * 200_000 + b"1]}", "more than 300,000 values"),
    ],
    ids=range(24),
)
def test_a_damaged_document_is_refused_in_one_line(file, content, what):
    file.write_bytes(content)
    told = refused(lambda: strict_json.read(file, Sample, "do that"))
    assert told == f"file.json: damaged: {what} (do that)"


def test_the_largest_numbers_are_numbers(file):
    file.write_text(json.dumps({"step": 2**63 - 1, "loss": 1.7e308}))
    assert strict_json.read(file, Sample, "x").step == 2**63 - 1


def folder(file):
    file.mkdir()


def dangling(file):
    file.symlink_to("nowhere")


def circle(file):
    file.symlink_to(file.name)


def device(file):
    file.symlink_to("/dev/zero")


def below_a_file(file):
    Path("plain").touch()
    file.symlink_to("plain/file.json")


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (lambda file: None, "it is missing"),
        (folder, "a folder is in its place"),
        (os.mkfifo, "a pipe or a device is in its place"),
        (device, "a pipe or a device is in its place"),
        (dangling, "it is missing"),
        (circle, "cannot be read: Too many levels of symbolic links"),
        (below_a_file, "cannot be read: Not a directory"),
    ],
    ids=["nothing", "folder", "pipe", "device", "dangling", "circle", "below-a-file"],
)
def test_what_stands_in_the_place_of_a_file_is_not_waited_for(file, put, what):
    put(file)
    for read in (lambda: strict_json.read_object(file, "x"), lambda: list(strict_json.lines(file, "x"))):
        assert refused(read) == f"file.json: damaged: {what} (x)"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_file_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "file.json")
        file.write_text("{}")
        file.chmod(0)
        Path(name).chmod(0o755)
        os.seteuid(65534)
        try:
            told = refused(lambda: strict_json.read_object(file, "x"))
        finally:
            os.seteuid(0)
    assert told == f"{file}: damaged: cannot be read: Permission denied (x)"


def test_a_document_of_gigabytes_is_refused(file):
    file.touch()
    os.truncate(file, 5 << 30)
    assert refused(lambda: strict_json.read_object(file, "x")) == "file.json: damaged: larger than 32,768 KiB (x)"


def test_a_line_of_gigabytes_is_refused_with_its_number(file):
    file.write_bytes(b"{}\n{}\n")
    os.truncate(file, 5 << 30)
    found = strict_json.lines(file, "x")
    assert [next(found), next(found)] == [(0, b"{}\n"), (3, b"{}\n")]
    assert refused(lambda: next(found)) == "file.json:3: damaged: longer than 8 MiB (x)"


@pytest.mark.parametrize(("begin", "offsets"), [(0, [0, 2, 4]), (1, [2, 4]), (2, [2, 4]), (3, [4]), (5, []), (9, [])])
def test_lines_from_an_offset_are_whole(file, begin, offsets):
    file.write_bytes(b"a\nb\nc")
    assert [offset for offset, _ in strict_json.lines(file, "x", begin)] == offsets
    assert [strict_json.place(file, offset) for offset in offsets] == [f"file.json:{1 + at // 2}" for at in offsets]


def test_a_wrong_key_is_shown_short_and_without_what_a_terminal_obeys():
    with pytest.raises(Wrong) as error:
        strict_json.parse(
            json.dumps({"\x1b[2J" + "x" * 999: 1}).encode()[:-1] + b', "\\u001b[2J' + b"x" * 999 + b'": 1}'
        )
    assert str(error.value) == "?[2J" + "x" * 76 + "...: stands there twice"
