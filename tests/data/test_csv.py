"""CSV and TSV files."""

import csv as standard
import gzip
import io
import re
from itertools import islice

import pytest
from data.reading import read as read_source
from data.reading import told
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from launcher.config.errors import UserError
from launcher.data import _columns, _lines, csv

properties = settings(deadline=None, max_examples=60)
fields = st.text(st.sampled_from('ab é,"\n\r\t\u2028;'), min_size=1, max_size=8)


def read(path, *columns, **keys):
    return read_source(csv, csv.Config(path=str(path), **keys), *columns)


def written(tmp_path, *lines, name="rows.csv"):
    content = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return tmp_path / name


def notes(config, rows=None):
    """The notes of a source after its first rows, or all, have been read."""
    source = csv.Source(config)
    (part,) = source.parts("data.train")
    list(islice(source.rows(("text",), "data.train", part), rows))
    return source.notes("data.train", part)


AS_THEY_ARE = "(quote: none reads quotes as they are)"


@properties
@given(
    st.lists(st.tuples(fields.filter(str.strip), fields), max_size=5),
    st.sampled_from(",\t;|"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_rows_are_those_that_were_written_whatever_is_quoted(tmp_path_factory, rows, delimiter, end):
    out = io.StringIO(newline="")
    returns = any("\r" in field for row in rows for field in row)  # which the writer forgets to quote before 3.13
    quoting = standard.QUOTE_ALL if returns else standard.QUOTE_MINIMAL
    writer = standard.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("label", "text"), *rows])
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    file.write_bytes(out.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "BLOCK", 7)
        found = read(file, "text", "label", delimiter=delimiter)
    assert found == [{"text": text, "label": label} for label, text in rows]


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path):
    assert read(written(tmp_path, b"\xef\xbb\xbftext,n", "", "a,1", "", "b,2", "")) == [{"text": "a"}, {"text": "b"}]


def test_columns_may_have_other_names_and_each_file_another_order(tmp_path):
    written(tmp_path, "body,topic", "one,x", name="1.csv")
    written(tmp_path, "topic,more,body", "y,-,two", name="2.csv.gz")
    rows = read(tmp_path / "*.csv*", "text", "label", text="body", label="topic")
    assert rows == [{"text": "one", "label": "x"}, {"text": "two", "label": "y"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one,two,three", r"has 3 fields, the header 2 \(is a ',' without quotes\?\)"),
        ("one", r"has 1 fields, the header 2"),
        ('"one"two,x', r"not valid CSV: ',' expected after '\"'"),
        ("one\rtwo,x", r"not valid CSV: new-line character"),
        ("one,", r"data\.train\.label: column 'label' is empty"),
        (b"caf\xe9,x", r"not UTF-8 \(byte 0xe9 in column 'text'\): convert the file, .*iconv"),
        ("x" * 101 + ",x", r"a line of 103 bytes, more than the 60"),
        ('"' + "x\n" * 31 + '",x', r"data\.train\.text: column 'text' has 62 characters, more than the 60"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_first_line(tmp_path, monkeypatch, line, message):
    monkeypatch.setattr(_columns, "MAX_ROW", 60)
    file = written(tmp_path, "text,label", '"fine\n""text""",x', "", line, "after,y")
    found = read(file, "text", "label")
    assert found[0] == {"text": 'fine\n"text"', "label": "x"}
    assert found[-1] == {"text": "after", "label": "y"}
    assert re.search(r"/rows\.csv:5: " + message, told(found)[0])


def test_a_quote_that_is_never_closed_is_told_where_it_is_opened(tmp_path):
    """It also ends the reading if bad rows are skipped: the rows after the quote are lost in it."""
    file = written(tmp_path, "text,n", "fine,1", 'an "inch,2', '"open,3', "swallowed,4", "and this,5")
    what = "a quote is opened here and never closed, so that 3 lines to the end are one row"
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/rows.csv:4: {what} {AS_THEY_ARE}")):
        read(file)


def test_a_byte_that_is_no_utf_8_inside_of_a_quote_spoils_one_row(tmp_path):
    found = read(written(tmp_path, "text", '"one', b"\xff", 'more"', "two"))
    assert told(found)[0].startswith(f"{tmp_path}/rows.csv:2: not UTF-8 (byte 0xff in column 'text')")
    assert found[1:] == [{"text": "two"}]


def test_an_empty_text_is_a_row(tmp_path):
    assert read(written(tmp_path, "text,n", ",1")) == [{"text": ""}]


def test_a_missing_column_is_told_at_once_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"^data\.train\.text: .*rows\.csv: no column 'body' \(there are: text, n\)"):
        read(written(tmp_path, "text,n", "a,1"), text="body")


def test_a_name_of_two_columns_is_told_where_it_is_asked_for(tmp_path):
    file = written(tmp_path, "text,n,n", "a,1,2")
    assert read(file) == [{"text": "a"}]
    with pytest.raises(UserError, match=r"^data\.train\.label: .*rows\.csv: has 2 columns named 'n'"):
        read(file, "text", "label", label="n")


def test_a_file_without_a_header_is_told(tmp_path):
    (tmp_path / "rows.csv").touch()
    with pytest.raises(UserError, match=r"rows\.csv: is empty: its first line should name the columns"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n"])
def test_a_delimiter_that_can_be_none_is_refused(delimiter):
    with pytest.raises(ValidationError, match="delimiter"):
        csv.Config(path="a.csv", delimiter=delimiter)


@pytest.mark.parametrize("delimiter", [r"\t", "\t"])
def test_a_tab_may_be_written_with_a_backslash(tmp_path, delimiter):
    file = written(tmp_path, "text\tn", "a b\t1")
    assert csv.Config(path="a.tsv", delimiter=delimiter).delimiter == "\t"
    assert read(file, delimiter=delimiter) == [{"text": "a b"}]


@pytest.mark.parametrize("quote", ["", "''", "\n", ","])
def test_a_quote_that_can_be_none_is_refused(quote):
    with pytest.raises(ValidationError, match="quote"):
        csv.Config(path="a.csv", quote=quote)


def test_the_default_quote_is_no_part_of_the_name_of_prepared_data():
    """Prepared folders are older than the key `quote`."""
    assert "quote" not in csv.Config(path="a.csv").model_dump(mode="json", context={"identity": True})
    assert csv.Config(path="a.csv").model_dump(mode="json")["quote"] == '"'
    assert csv.Config(path="a.csv", quote="none").model_dump(mode="json")["quote"] is None


plain = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), max_size=6)


@properties
@given(st.lists(st.tuples(plain.filter(str.strip), plain), max_size=5), st.sampled_from(["none", None]))
def test_without_quoting_each_line_is_a_row(tmp_path_factory, rows, quote):
    file = tmp_path_factory.mktemp("tsv") / "rows.tsv"
    lines = ["label\ttext", *("\t".join(row) for row in rows)]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    config = csv.Config(path=str(file), delimiter="\t", quote=quote)
    assert read_source(csv, config, "text", "label") == [{"text": text, "label": label} for label, text in rows]
    assert notes(config) == []


def test_another_quote(tmp_path):
    assert read(written(tmp_path, "text,n", "'a, \"b',1"), quote="'") == [{"text": 'a, "b'}]


def test_rows_that_quotes_join_over_lines_are_noted(tmp_path):
    file = written(tmp_path, "text,n", "fine,1", '"two', 'lines",2', '"a', "b", 'c",3', '"quoted",4')
    config = csv.Config(path=str(file))
    (note,) = notes(config)
    assert note == (
        f"line breaks inside quotes in 2 rows of {file} (5 lines, the first at {file}:3); where quotes are part of "
        "the text, set data.train.quote: none"
    )


def test_what_is_noted_is_what_was_read(tmp_path):
    """A file that a limit cuts short is not read to its end for the notes."""
    file = written(tmp_path, "text,n", '"two', 'lines",1', "fine,2", '"a', "b", 'c",3', '"never closed,4')
    config = csv.Config(path=str(file))
    assert notes(config, rows=0) == []
    (note,) = notes(config, rows=2)
    assert note.startswith(f"line breaks inside quotes in 1 row of {file} (2 lines, the first at {file}:2)")
    with pytest.raises(UserError, match="never closed"):
        notes(config)


def test_a_lone_quote_that_swallows_columns_is_told(tmp_path):
    found = told(read(written(tmp_path, "text,n", '"inch,1', "more,2", 'an" x,3')))
    assert re.search(r"rows\.csv:2: (not valid CSV: ',' expected|has \d fields .* over 3 lines)", found[0])


@pytest.mark.parametrize(
    ("first", "delimiter", "what"),
    [
        ("text;label", ",", "has no ',' but 1 of ';' (delimiter: \";\")"),
        ("text\tlabel\tn", ",", "has no ',' but 2 of '\\t' (delimiter: \"\\t\")"),
        ("text,label", "\t", "has no '\\t' but 1 of ',' (delimiter: \",\")"),
        ("text|label", ",", "has no ',' but 1 of '|' (delimiter: \"|\")"),
    ],
)
def test_a_header_of_another_delimiter_is_told(tmp_path, first, delimiter, what):
    file = written(tmp_path, first, "a")
    with pytest.raises(UserError) as error:
        read(file, "text", "label", delimiter=delimiter)
    assert str(error.value) == f"data.train.delimiter: {file}: its first line {what}"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_told(tmp_path, encoding):
    (tmp_path / "rows.csv").write_text("text,label\na,b\n", encoding=encoding)
    with pytest.raises(UserError, match=r"rows\.csv: .*UTF-16.* \(.*iconv -f utf-16 -t utf-8"):
        read(tmp_path / "rows.csv", "text", "label")


def test_a_file_whose_lines_end_with_carriage_returns_alone_is_told(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"text,label\ra,b\rc,d\r")
    with pytest.raises(UserError, match=r"rows\.csv:1: .* \(lines that end with \\r alone\? tr "):
        read(tmp_path / "rows.csv", "text", "label")
