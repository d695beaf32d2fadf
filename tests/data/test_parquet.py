"""Rows of parquet files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.reading import read as read_source
from data.reading import told

from launcher.config.errors import UserError
from launcher.data import _files, parquet


def read(path, *columns, **keys):
    return read_source(parquet, parquet.Config(path=str(path), **keys), *columns)


def written(tmp_path, rows, name="rows.parquet", **keys):
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), tmp_path / name, **keys)
    return tmp_path / name


def numbered(count, more="x" * 1000):
    return [{"text": f"text {n}", "topic": n, "more": f"{n} {more}"} for n in range(count)]


def test_columns_may_have_other_names_and_the_others_are_not_read(tmp_path):
    file = written(tmp_path, numbered(2))
    rows = read(file, "text", "text_pair", "label", text_pair="more", label="topic")
    assert rows[1] == {"text": "text 1", "text_pair": "1 " + "x" * 1000, "label": 1}
    assert set(read(file)[0]) == {"text"}


def test_row_groups_of_a_large_file_are_parts_and_small_files_are_one(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "PART", 25_000)
    written(tmp_path, numbered(100), "b.parquet", row_group_size=10)
    for name in ("a", "c", "d"):
        written(tmp_path, numbered(2), f"{name}.parquet")
    config = parquet.Config(path=str(tmp_path / "*"))
    parts = parquet.Source(config).parts("data.train")
    assert [len(part.files) for part in parts] == [1, 1, 1, 1, 1, 1, 2]
    assert [(part.start, part.stop) for part in parts[1:-1]] == [(n, n + 2) for n in range(0, 10, 2)]
    found = [row["text"] for row in read_source(parquet, config)]
    assert found == [f"text {n}" for count in (2, 100, 2, 2) for n in range(count)]


@pytest.mark.parametrize("value", [None, 7, b"bytes"])
def test_a_value_that_is_no_text_is_told_with_file_and_row(tmp_path, monkeypatch, value):
    monkeypatch.setattr(_files, "PART", 100)
    column = pa.array(["a", "b", "c", "d", "e"] if value is None else [value] * 5)
    column = pa.array(["a", "b", "c", None, "e"]) if value is None else column
    file = written(tmp_path, pa.table({"text": column}), row_group_size=2)
    found = read(file)
    bad = told(found)
    assert len(bad) == (1 if value is None else 5)
    told_as = f"data.train.text: column 'text' is no text but {type(value).__name__}"
    assert bad[min(3, len(bad) - 1)] == f"{file} row 4: {told_as}"


def test_texts_that_are_not_utf_8_spoil_their_own_rows_alone(tmp_path):
    wrong = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    found = read(written(tmp_path, pa.table({"text": wrong})))
    assert [found[0], found[2]] == [{"text": "a"}, {"text": "c"}]
    assert told(found)[0].endswith("row 2: data.train.text: column 'text' is no text but bytes")


def test_texts_that_are_stored_once_each_are_texts(tmp_path):
    file = written(tmp_path, pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}))
    assert [row["text"] for row in read(file)] == ["a", "b", "a"]


def test_a_missing_column_is_told_at_once_with_those_there_are(tmp_path):
    what = r"^data\.train\.text: .*rows\.parquet: no column 'body' \(there are: text, topic, more\)"
    with pytest.raises(UserError, match=what):
        read(written(tmp_path, numbered(2)), text="body")


def test_a_file_that_is_no_parquet_is_told(tmp_path):
    (tmp_path / "a.parquet").write_text("text,label\n" * 10, encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.parquet: is no parquet file, or is damaged: "):
        read(tmp_path / "a.parquet")


def test_a_file_that_is_damaged_is_told(tmp_path):
    file = written(tmp_path, numbered(5000), compression="zstd")
    content = bytearray(file.read_bytes())
    content[4:400] = b"\xff" * 396
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.parquet: is no parquet file, or is damaged: "):
        read(file)


def test_an_empty_table_has_no_rows(tmp_path):
    assert read(written(tmp_path, pa.table({"text": pa.array([], pa.string())}))) == []
