"""JSON Lines files."""

import json
import re

import pytest
from data.reading import read as read_source
from data.reading import told
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data import _files, jsonl

properties = settings(deadline=None, max_examples=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def read(path, *columns, **keys):
    return read_source(jsonl, jsonl.Config(path=str(path), **keys), *columns)


def written(tmp_path, *lines):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return file


@properties
@given(
    st.lists(
        st.fixed_dictionaries(
            {"text": texts, "label": texts.filter(str.strip) | st.integers(0), "more": st.none()},
        ),
        max_size=5,
    )
)
def test_rows_are_those_that_were_written_without_the_columns_nobody_asked_for(tmp_path_factory, rows):
    file = written(tmp_path_factory.mktemp("jsonl"), *(json.dumps(row) for row in rows))
    assert read(file, "text", "label") == [{"text": row["text"], "label": row["label"]} for row in rows]


def test_files_are_read_one_after_the_other_in_the_order_of_their_names(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}1"}}\n{{"text": "{name}2"}}', encoding="utf-8")
    assert [row["text"] for row in read(tmp_path / "*.jsonl")] == ["a1", "a2", "b1", "b2"]


def test_columns_may_have_other_names(tmp_path):
    file = written(tmp_path, '{"body": "b", "title": "t", "topic": 4}')
    rows = read(file, "text", "text_pair", "label", text="body", text_pair="title", label="topic")
    assert rows == [{"text": "b", "text_pair": "t", "label": 4}]


def test_blank_lines_are_no_rows(tmp_path):
    assert read(written(tmp_path, "", '{"text": "a"}', "  ", '{"text": "b"}', "")) == [
        {"text": "a"},
        {"text": "b"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a",}', r"not valid JSON: .* at column 14"),
        ('{"text": "a"', r"not valid JSON: Expecting ',' delimiter at column 13"),
        ('["text", "a"]', r"should be a JSON object, not list"),
        ('"text"', r"should be a JSON object, not str"),
        ("null", r"should be a JSON object, not NoneType"),
        ('{"body": "a", "n": 1}', r"data\.train\.text: no column 'text' \(there are: body, n\)"),
        ('{"text": ["a"]}', r"data\.train\.text: column 'text' is no text but list"),
        ('{"text": null}', r"data\.train\.text: column 'text' is no text but NoneType"),
        (b'{"text": "caf\xe9"}', r"not UTF-8 \(byte 0xe9 at 14\)"),
        ("[" * 100_000, r"JSON that cannot be read: maximum recursion depth"),
        ('{"text": ' + "7" * 5000 + "}", r"JSON that cannot be read: Exceeds the limit"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_file_and_number(tmp_path, line, message):
    file = written(tmp_path, '{"text": "fine"}', "", line, '{"text": "after"}')
    fine, bad, after = read(file)
    assert (fine, after) == ({"text": "fine"}, {"text": "after"})
    assert re.search(r"/rows\.jsonl:3: " + message, str(bad))


def test_an_empty_label_is_told(tmp_path):
    (bad,) = told(read(written(tmp_path, '{"text": "a", "label": null}'), "text", "label"))
    assert bad.endswith("rows.jsonl:1: data.train.label: column 'label' is empty")


def test_the_fingerprint_is_that_of_the_bytes(tmp_path):
    found = []
    for line in ('{"text": "a"}', '{"text": "b"}', '{"text": "a"}'):
        found.append(jsonl.Source(jsonl.Config(path=str(written(tmp_path, line)))).fingerprint("data.train"))
    assert found[0] == found[2] != found[1]


def test_half_a_character_is_told_since_no_file_can_hold_it(tmp_path):
    file = written(tmp_path, '{"text": "whole \\ud83d\\ude00"}', '{"text": "half \\ud83d"}')
    whole, half = read(file)
    assert whole == {"text": "whole 😀"}
    assert str(half).endswith("rows.jsonl:2: data.train.text: half a character (U+D83D alone): take it out")


@properties
@given(st.lists(st.fixed_dictionaries({"text": texts}), max_size=8), st.integers(1, 40))
def test_the_rows_of_the_parts_are_those_of_the_file(tmp_path_factory, rows, size):
    file = written(tmp_path_factory.mktemp("parts"), *(json.dumps(row, ensure_ascii=False) for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "PART", size)
        assert read(file) == rows


@pytest.mark.parametrize(
    ("label", "read_as"),
    [("1e2", 100.0), ("12345678901234567890123", 12345678901234567890123), ("true", True)],
)
def test_values_are_those_that_json_means(tmp_path, label, read_as):
    file = written(tmp_path, f'{{"text": "a", "label": 0, "label": {label}}}')
    assert read(file, "text", "label") == [{"text": "a", "label": read_as}]


@pytest.mark.parametrize("label", ["0.1", "[1]", "{}"])
def test_a_label_that_is_neither_a_name_nor_a_whole_number_is_bad(tmp_path, label):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a", "label": {label}}}\n', encoding="utf-8")
    (found,) = read_source(jsonl, jsonl.Config(path=str(tmp_path / "a.jsonl")), "text", "label")
    assert str(found).startswith(f"{tmp_path / 'a.jsonl'}:1: data.train.label: column 'label' is ")
    assert "a label is a name or a whole number" in str(found)
