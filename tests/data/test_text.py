"""Documents of plain text files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.data import text

properties = settings(deadline=None, max_examples=40)
words = st.text(st.sampled_from("ab é.\t"), min_size=1, max_size=6).filter(str.strip)


def read(path, **keys):
    config = text.Config(path=str(path), **keys)
    return [row["text"] for row in text.rows(config, ("text",), "data.train")]


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
    st.sampled_from(["\n\n", "\n \n", "\n\n\n"]),
)
def test_paragraphs_are_those_that_were_written(tmp_path_factory, paragraphs, gap):
    file = tmp_path_factory.mktemp("text") / "a.txt"
    written = ["\n".join(lines) for lines in paragraphs]
    file.write_bytes(gap.join(written).encode())
    assert read(file) == written


def test_an_empty_file_holds_no_document(tmp_path):
    (tmp_path / "a.txt").touch()
    assert [read(tmp_path / "a.txt", document=kind) for kind in ("paragraph", "line", "file")] == [[], [], []]


def test_a_limit_counts_documents_and_not_blank_lines(file):
    assert read(file, document="line", limit=2) == ["one", "two  "]


def test_a_limit_stops_the_reading_before_what_is_wrong_further_down(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\xff\n")
    assert read(tmp_path / "a.txt", document="line", limit=2) == ["one", "two"]


def test_bytes_that_are_not_utf_8_are_told_with_file_and_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(UserError, match=r"a\.txt:3: not UTF-8 \(byte 0xff at 1\)"):
        read(tmp_path / "a.txt")


def test_plain_text_has_no_labels_to_give(file):
    with pytest.raises(UserError, match=r"^data\.train\.kind: plain text has no labels"):
        text.rows(text.Config(path=str(file)), ("text", "label"), "data.train")


def test_the_fingerprint_changes_when_the_content_does_and_not_when_it_is_written_again(file):
    config, found = text.Config(path=str(file)), []
    for content in (b"one", b"one", b"one ", b"one"):
        file.write_bytes(content)
        found.append(text.fingerprint(config, "data.train"))
    assert found[0] == found[1] == found[3] != found[2]
