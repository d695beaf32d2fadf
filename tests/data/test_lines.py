"""Lines of plain and compressed files, in ranges, in bounded memory."""

import gzip
import os
import tracemalloc
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from data.reading import read as read_source
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.data import Part, _columns, _files, _lines, jsonl
from launcher.data import text as documents

properties = settings(deadline=None, max_examples=60)


def flat(blocks):
    """(file:line without the folder, line or what is wrong with it) of every line."""
    for lines in blocks:
        texts = [lines.bad.what] if lines.bad else _lines.strip_returns(lines.text).removesuffix("\n").split("\n")
        for number, text in enumerate(texts):
            yield Path(lines.where(number)).name, text
        if lines.bad:
            assert Path(lines.bad.where).name == Path(lines.where(0)).name


def of(parts):
    return [
        line for part in parts for file in part.files for line in flat(_lines.read_lines(file, part.start, part.stop))
    ]


def compressed(path, kind, content):
    with pa.CompressedOutputStream(str(path), kind) as file:
        file.write(content)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.txt"


def test_lines_are_numbered_from_one_and_have_no_ends(file):
    file.write_bytes("eins\r\nzwei é\n\nvier\u2028fünf".encode())
    found = [("a.txt:1", "eins"), ("a.txt:2", "zwei é"), ("a.txt:3", ""), ("a.txt:4", "vier\u2028fünf")]
    assert of(_lines.file_parts([file])) == found


def test_carriage_returns_go_from_the_ends_of_lines_alone():
    assert _lines.strip_returns("a\r\r\n\rb\rc\r\n\r\r") == "a\n\rb\rc\n"


def test_a_byte_order_mark_is_no_text_at_the_start_of_a_file_and_text_after_it(file):
    file.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")
    assert [text for _, text in of(_lines.file_parts([file]))] == ["one", "\ufefftwo"]


pieces = [b"\n", b"\r\n", b"\r", b" ", b"a", "é".encode(), b"\xff", b"\xef\xbb\xbf", b"some words", b"x" * 9]
anything = st.lists(st.sampled_from(pieces)).map(b"".join)


@properties
@given(anything, st.integers(1, 12), st.integers(3, 16))
@example(b"\xef\xbb\xbf\na", 1, 3)
def test_ranges_give_the_lines_of_the_whole(tmp_path_factory, content, size, block):
    file = tmp_path_factory.mktemp("lines") / "a.txt"
    file.write_bytes(content)
    whole = of([Part((str(file),))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "BLOCK", block)
        assert of([Part((str(file),))]) == whole
        patch.setattr(_files, "PART", size)
        parts = _lines.file_parts([file])
        assert of(parts) == whole
    assert sum(part.size for part in parts) == len(content)


@properties
@given(anything, st.integers(3, 20))
def test_a_line_that_is_too_long_is_told_wherever_it_is_cut(tmp_path_factory, content, block):
    file = tmp_path_factory.mktemp("long") / "a.txt"
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_columns, "MAX_ROW", 7)
        found = []
        for size in (block, 20):
            patch.setattr(_lines, "BLOCK", size)
            found.append(of([Part((str(file),))]))
    assert found[0] == found[1]
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lengths = {f"a.txt:{n}": len(line) for n, line in enumerate(lines, 1)}
    assert all((lengths[where] > 7) == ("a line of" in text) for where, text in found[0])


def test_the_lines_that_go_on_after_a_range_are_marked(file):
    file.write_bytes(b"one\ntwo\nthree\nfour\n")
    found = [(lines.text, lines.beyond) for lines in _lines.read_lines(str(file), 2, 5, beyond=True)]
    assert found == [("two\n", False), ("three\nfour\n", True)]


def test_bytes_that_are_not_utf_8_are_told_with_line_and_byte_and_their_neighbours_are_read(file):
    file.write_bytes(b"fine\ncaf\xe9\nalso\nfine\n\xff")
    lines = of(_lines.file_parts([file]))
    assert [where for where, _ in lines] == [f"a.txt:{n}" for n in range(1, 6)]
    assert [lines[n][1] for n in (0, 2, 3)] == ["fine", "also", "fine"]
    assert lines[1][1].startswith("not UTF-8 (byte 0xe9 at 4): convert the file, for example by iconv")


def test_small_files_are_one_part_and_large_ones_several_in_the_order_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "PART", 10)
    sizes = {"a": 4, "b": 5, "c": 25, "d": 1, "e": 10, "f": 0}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    parts = _lines.file_parts([tmp_path / name for name in sizes])
    names = [("".join(Path(file).name for file in part.files), part.start, part.stop, part.size) for part in parts]
    ranges = [("c", 0, 10, 10), ("c", 10, 20, 10), ("c", 20, 25, 5)]
    assert names == [("ab", 0, None, 9), *ranges, ("d", 0, None, 1), ("ef", 0, None, 10)]
    assert [part.files for part in _lines.file_parts([tmp_path / "c"], ranges=False)] == [(str(tmp_path / "c"),)]


CONTENT = b"".join(f"line {n} {n * n * 7919 % 10007}\n".encode() for n in range(30000))


@pytest.mark.parametrize(("name", "kind"), [("a.gz", "gzip"), ("a.zst", "zstd"), ("plainly-named", "zstd")])
def test_a_compressed_file_gives_the_lines_of_the_plain_one_and_is_never_cut(tmp_path, monkeypatch, name, kind):
    monkeypatch.setattr(_files, "PART", 200_000)
    (tmp_path / "plain").write_bytes(CONTENT)
    parts = _lines.file_parts([compressed(tmp_path / name, kind, CONTENT)])
    assert len(parts) == 1
    assert [text for _, text in of(parts)] == [text for _, text in of(_lines.file_parts([tmp_path / "plain"]))]


def test_archives_one_after_the_other_in_a_file_are_all_read(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert of(_lines.file_parts([tmp_path / "a.gz"])) == [("a.gz:1", "one"), ("a.gz:2", "two")]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_compressed_file_that_is_cut_off_is_told_with_what_was_good(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(_lines, "BLOCK", 4096)
    file = compressed(tmp_path / "a.archive", kind, CONTENT)
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) * 2 // 3, 5):
        file.write_bytes(whole[:length])
        seen = []
        what = r"a\.archive: cut off or damaged after line \d+ \(.*\): get it again"
        with pytest.raises(UserError, match=what) as told:
            seen.extend(flat(_lines.read_lines(str(file))))
        assert f"after line {len(seen)} " in str(told.value)
        assert [text for _, text in seen] == CONTENT.decode().split("\n")[: len(seen)]
        assert length == 5 or len(seen) > 1000


def test_a_damaged_gzip_file_is_told(tmp_path):
    file = tmp_path / "a.gz"
    damaged = bytearray(gzip.compress(CONTENT))
    damaged[len(damaged) // 2] ^= 0x55
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=r"a\.gz: cut off or damaged after line"):
        of(_lines.file_parts([file]))


@pytest.mark.parametrize(("name", "kind"), [("a.txt.gz", "gzip"), ("a.zst", "zstd")])
@pytest.mark.parametrize("content", [b"", b"plain text\n"])
def test_a_name_that_promises_what_the_content_does_not_hold_is_told(tmp_path, name, kind, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: is not compressed by {kind}, as its name says: get it again"):
        _lines.file_parts([tmp_path / name])


def zeros(file, kind):
    """Write a file with a line of 100 MB between two short ones."""
    opened = partial(open, file, "wb") if kind is None else partial(pa.CompressedOutputStream, str(file), kind)
    with opened() as out:
        out.write(b"good\n")
        for _ in range(100):
            out.write(b"0" * 10**6)
        out.write(b"\nlast\n")


@pytest.mark.parametrize("kind", [None, "gzip", "zstd"])
def test_a_line_of_100_mb_is_told_and_never_held(file, kind):
    zeros(file, kind)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    lines = of([Part((str(file),))])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [text for _, text in lines[::2]] == ["good", "last"]
    assert lines[1] == (
        "a.txt:2",
        "a line of 100,000,000 bytes, more than the 16,777,216 that a row may have: split it",
    )
    assert most < 2.5 * _columns.MAX_ROW
    assert pa.total_allocated_bytes() - before < _columns.MAX_ROW


def test_line_numbers_are_counted_again_when_a_file_has_changed(file, monkeypatch):
    monkeypatch.setattr(_files, "PART", 4)
    for content, number in ((b"a\nb\nc\nd\ne\n\xff\n", 6), (b"\n\n\n\n\n\n\n\n\n\xff\n", 10)):
        file.write_bytes(content)
        os.utime(file, ns=(number, number))
        assert [where for where, text in of(_lines.file_parts([file])) if text.startswith("not")] == [f"a.txt:{number}"]


@pytest.mark.parametrize(
    ("module", "config"),
    [(jsonl, jsonl.Config), (documents, partial(documents.Config, document="line")), (documents, documents.Config)],
    ids=["jsonl", "lines", "paragraphs"],
)
def test_utf_16_and_carriage_returns_alone_are_told(tmp_path, module, config):
    file = tmp_path / "file"
    file.write_bytes('{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(UserError, match=r"file: is UTF-16, not UTF-8 \(convert it: iconv -f utf-16 -t utf-8 "):
        read_source(module, config(path=str(file)), "text")
    file.write_bytes(b'{"text": "a"}\r' * 100)
    try:
        found = str(*read_source(module, config(path=str(file)), "text"))
    except UserError as error:
        found = str(error)
    assert "lines that end with \\r alone? tr '\\r' '\\n'" in found


def test_a_short_document_with_carriage_returns_is_none(tmp_path):
    (tmp_path / "file").write_bytes(b"one\rtwo\r")
    assert read_source(documents, documents.Config(path=str(tmp_path / "file")), "text") == [{"text": "one\rtwo"}]
