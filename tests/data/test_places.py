"""The place of each row is the line, or row, from which it was read."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data import BadRow, _files, arrow, csv, image_folder, jsonl, linear, parquet, python_docs, text

PIECES = [b"\n", b"\n\n", b"one", b"two words", b" \t", b"\r\n", b"\xff", "é\u3000".encode(), b"x" * 40]


def placed(module, config, *columns):
    """(row, place) of each row, part by part."""
    source = module.Source(config)
    parts = source.parts("data.train")
    rows = [list(source.rows(columns or ("text",), "data.train", part)) for part in parts]
    places = [[place() for _, place in zip(of_part, source.places("data.train", part), strict=False)]
              for part, of_part in zip(parts, rows, strict=True)]  # fmt: skip
    return [pair for one, other in zip(rows, places, strict=True) for pair in zip(one, other, strict=True)]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(["paragraph", "line"]), st.integers(1, 30))
def test_a_text_begins_at_its_line(tmp_path_factory, pieces, document, part):
    file = tmp_path_factory.mktemp("places") / "a.txt"
    file.write_bytes(b"".join(pieces))
    lines = file.read_bytes().split(b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "PART", part)
        found = placed(text, text.Config(path=str(file), document=document))
        count = sum(1 for _ in text.Source(text.Config(path=str(file), document=document)).places("", whole(file)))
    for row, place in found:
        line = lines[int(place.rpartition(":")[2]) - 1]
        assert b"\xff" in line if isinstance(row, BadRow) and document == "line" else line.strip()
        if not isinstance(row, BadRow):
            assert row["text"].split("\n")[0] == line.decode().rstrip("\r")
    assert count == len(found)


def whole(file):
    return text.Part((str(file),), 0, None)


def test_a_file_is_its_place(tmp_path):
    for name, content in (("a.txt", "one\n\ntwo"), ("b.txt", " \n"), ("c.txt", "three")):
        (tmp_path / name).write_text(content)
    found = placed(text, text.Config(path=str(tmp_path / "*.txt"), document="file"))
    assert [(row["text"], Path(place).name) for row, place in found] == [("one\n\ntwo", "a.txt"), ("three", "c.txt")]


def test_lines_of_json(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "PART", 20)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n[]\n{"text": "four, of a part of its own"}\n{"text": "five"}\n')
    found = placed(jsonl, jsonl.Config(path=str(file)))
    assert [place for _, place in found] == [f"{file}:{n}" for n in (1, 3, 4, 5)]
    assert isinstance(found[1][0], BadRow)


def test_rows_of_csv(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('text,more\n"one\nand two",1\n\nlone\nfive,2\n')
    found = placed(csv, csv.Config(path=str(file)))
    assert [place for _, place in found] == [f"{file}:{n}" for n in (2, 5, 6)]
    assert isinstance(found[1][0], BadRow) and found[2][0] == {"text": "five"}


def test_rows_of_parquet_and_arrow(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "PART", 50)
    values = [f"row {n}" for n in range(1, 10)]
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet", row_group_size=4)
    found = placed(parquet, parquet.Config(path=str(tmp_path / "a.parquet")))
    assert [f"{tmp_path}/a.parquet {row['text']}" for row, _ in found] == [place for _, place in found]
    datasets.Dataset.from_dict({"text": values}).save_to_disk(tmp_path / "saved")
    found = placed(arrow, arrow.Config(path=str(tmp_path / "saved")))
    assert [place for _, place in found] == [f"{tmp_path}/saved row {n}" for n in range(9)]


def test_images_and_docstrings_and_numbers(tmp_path):
    folder = tmp_path / "images" / "dark"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"no image")
    found = placed(image_folder, image_folder.Config(path=str(tmp_path / "images")), "image", "label")
    assert [Path(place).name for _, place in found] == ["a.png", "b.png"]
    found = placed(python_docs, python_docs.Config(packages=["json"]))
    assert found[0][1].endswith("json docstring 1") and found[0][0]["text"].startswith("JSON")
    found = placed(linear, linear.Config(weights=[1.0], rows=3), "features", "label")
    assert [place for _, place in found] == [f"data.train row {n}" for n in (1, 2, 3)]
