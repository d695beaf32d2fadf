"""Plain text files."""

import pytest
from data.reading import read as read_source
from data.reading import texts, told
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.data import Part, _columns, _files, _lines, text

properties = settings(deadline=None, max_examples=40)
words = st.text(st.sampled_from("ab é.\t"), min_size=1, max_size=6).filter(str.strip)


def read(path, **keys):
    return texts(read_source(text, text.Config(path=str(path), **keys)))


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\n\none\ntwo  \r\n \t \r\n\nthree\n\n\n")
    return file


def test_a_document_is_a_paragraph_unless_it_is_said_otherwise(file):
    assert read(file) == ["one\ntwo  ", "three"]


def test_a_document_may_be_a_line(file):
    assert read(file, document="line") == ["one", "two  ", "three"]


def test_a_document_may_be_a_file(file):
    (file.parent / "b.txt").write_bytes(b"whole\n\nfile\n")
    whole = read(file.parent / "*.txt", document="file")
    assert whole == ["\n\none\ntwo  \n \t \n\nthree\n\n", "whole\n\nfile"]


def test_a_paragraph_ends_where_its_file_does(file):
    (file.parent / "b.txt").write_bytes(b"four")
    assert read(file.parent / "*.txt") == ["one\ntwo  ", "three", "four"]


@properties
@given(
    st.lists(st.lists(words, min_size=1, max_size=3), max_size=4),
    st.sampled_from(["\n\n", "\n \n", "\n\n\n", "\n\u3000\n"]),
)
def test_paragraphs_are_those_that_were_written(tmp_path_factory, paragraphs, gap):
    file = tmp_path_factory.mktemp("text") / "a.txt"
    written = ["\n".join(lines) for lines in paragraphs]
    file.write_bytes(gap.join(written).encode())
    assert read(file) == written


pieces = [
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b" ",
    "\u3000".encode(),
    "é".encode(),
    b"\xff",
    b"\xef\xbb\xbf",
    b"a",
    b"word",
]
contents = st.lists(st.sampled_from(pieces), max_size=25).map(b"".join)


@pytest.mark.parametrize("document", ["paragraph", "line", "file"])
@settings(deadline=None, max_examples=150)
@given(contents, st.integers(1, 15), st.integers(3, 16), st.sampled_from([3, 5, 1000]))
@example(b"\xef\xbb\xbf \nword", 2, 3, 1000)
@example(b"a\n\nword\nword\n\na", 4, 3, 1000)
def test_the_documents_of_the_parts_are_those_of_the_file(tmp_path_factory, document, content, size, block, row):
    """Any content, part size and block size give the same documents and the same bad rows."""
    file = tmp_path_factory.mktemp("parts") / "a.txt"
    file.write_bytes(content)
    config = text.Config(path=str(file), document=document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_columns, "MAX_ROW", row)
        whole = list(text.Source(config).rows(("text",), "data.train", Part((str(file),))))
        patch.setattr(_lines, "BLOCK", block)
        patch.setattr(_files, "PART", size)
        assert read_source(text, config) == whole


@properties
@given(contents)
def test_paragraphs_are_those_that_a_line_at_a_time_finds(tmp_path_factory, content):
    """The simplest definition of a paragraph."""
    file = tmp_path_factory.mktemp("plainly") / "a.txt"
    content = content.replace(b"\xff", b"")
    file.write_bytes(content)
    found = [[]]
    for line in content.decode("utf-8-sig").split("\n"):
        found = [*found[:-1], [*found[-1], line.rstrip("\r")]] if line.strip() else [*found, []]
    assert read(file) == ["\n".join(lines) for lines in found if lines]


def test_an_empty_file_holds_no_document(tmp_path):
    (tmp_path / "a.txt").touch()
    assert [read(tmp_path / "a.txt", document=kind) for kind in ("paragraph", "line", "file")] == [[], [], []]


def test_a_bad_line_makes_its_document_bad_and_no_other(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\nthree\n\xff\nfour\n\xfe\n\nfive\n")
    found = read(tmp_path / "a.txt")
    assert (found[0], found[2], len(found)) == ("one\ntwo", "five", 3)
    assert str(found[1]).startswith(f"{tmp_path / 'a.txt'}:5: not UTF-8 (byte 0xff at 1)")
    lines = read(tmp_path / "a.txt", document="line")
    assert [line for line in lines if isinstance(line, str)] == ["one", "two", "three", "four", "five"]
    assert len(read(tmp_path / "a.txt", document="file")) == 1


def test_a_document_that_is_too_long_is_told_with_its_first_line(tmp_path, monkeypatch):
    monkeypatch.setattr(_columns, "MAX_ROW", 20)
    (tmp_path / "a.txt").write_bytes(b"short\n\nshort too\n\n" + b"nine char\n" * 30 + b"\nlast\n")
    found = read_source(text, text.Config(path=str(tmp_path / "a.txt")))
    assert texts([found[0], found[1], found[3]]) == ["short", "short too", "last"]
    assert told(found) == [
        f"{tmp_path / 'a.txt'}:5: a paragraph of 299 characters, more than the 20 that a row may have: split it"
    ]
    assert "a.txt:1: a file of 323 characters" in str(read(tmp_path / "a.txt", document="file")[0])


def test_a_paragraph_of_exactly_the_longest_length_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_columns, "MAX_ROW", 9)
    (tmp_path / "a.txt").write_bytes(b"four\nfour\n\nfour\nfive5\n")
    found = read(tmp_path / "a.txt")
    assert found[0] == "four\nfour"
    assert "a paragraph of 10 characters" in str(found[1])


def test_plain_text_has_no_labels_to_give(file):
    with pytest.raises(UserError, match=r"^data\.train\.kind: plain text has no labels"):
        text.Source(text.Config(path=str(file))).rows(("text", "label"), "data.train", Part((str(file),)))


def test_the_fingerprint_changes_when_the_content_does_and_not_when_it_is_written_again(file):
    config, found = text.Config(path=str(file)), []
    for content in (b"one", b"one", b"one ", b"one"):
        file.write_bytes(content)
        found.append(text.Source(config).fingerprint("data.train"))
    assert found[0] == found[1] == found[3] != found[2]
