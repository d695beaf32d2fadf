"""Datasets that `datasets` loads, here from local folders, without the hub."""

import json

import pytest
from data.reading import read as read_source
from data.reading import told

from launcher.config.errors import UserError
from launcher.data import _files, hub


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for split, texts in {"train": ["one", "two", "three"], "test": ["four"]}.items():
        lines = [json.dumps({"text": text, "title": text.upper(), "label": n}) for n, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def labelled(tmp_path):
    """A parquet folder with labels as class numbers; the last row has no label."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "topic": ClassLabel(names=["sport", "art"])})
    rows = {"text": ["a", "b", "c"], "topic": [1, 0, -1]}
    (tmp_path / "labelled").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "labelled" / "train.parquet")
    return tmp_path / "labelled"


def read(folder, *columns, **keys):
    return read_source(hub, hub.Config(name=str(folder), **keys), *columns)


def test_rows_are_those_of_the_training_split_unless_another_is_named(folder):
    assert [row["text"] for row in read(folder)] == ["one", "two", "three"]
    assert [row["text"] for row in read(folder, split="test")] == ["four"]


def test_a_slice_of_a_split_may_be_named(folder):
    assert [row["text"] for row in read(folder, split="train[1:]")] == ["two", "three"]


def test_columns_may_have_other_names(folder):
    rows = read(folder, "text", "text_pair", "label", text="title", text_pair="text")
    assert rows[:1] == [{"text": "ONE", "text_pair": "one", "label": 0}]


def test_labels_that_are_numbers_of_names_are_given_by_name(labelled):
    rows = read(labelled, "text", "label", label="topic")
    assert rows[:2] == [{"text": "a", "label": "art"}, {"text": "b", "label": "sport"}]


def test_a_row_that_nobody_labelled_is_refused_and_not_given_the_last_name(labelled):
    (bad,) = told(read(labelled, "text", "label", label="topic"))
    assert bad.endswith("labelled[train] row 2: data.train.label: has no label (-1): choose another split")


def test_a_missing_column_is_told_with_those_there_are(folder):
    with pytest.raises(UserError, match=r"^data\.train\.text: .*set\[train\]: no column 'body' \(there are: text, "):
        read(folder, text="body")


def test_an_unknown_split_is_told(folder):
    with pytest.raises(UserError, match=r"^data\.train: .*set: Unknown split \"dev\""):
        read(folder, split="dev")


def test_files_that_do_not_fit_together_are_told(folder):
    (folder / "test.jsonl").write_text('{"other": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"^data\.train: .*set: .*column"):
        read(folder)


def test_a_data_set_that_cannot_be_had_is_told_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"^data\.train\.name: .*nobody/nothing.* cannot be had: .*launcher prepare"):
        read("nobody/nothing")


def test_the_fingerprint_of_a_folder_changes_with_its_files_and_not_with_its_place(folder, tmp_path):
    def found(where=folder, **keys):
        return hub.Source(hub.Config(name=str(where), **keys)).fingerprint("data.train")

    before = found()
    assert found() == before
    assert found(folder.rename(tmp_path / "elsewhere")) == before
    folder = tmp_path / "elsewhere"
    (folder / "train.jsonl").write_text('{"text": "other"}\n', encoding="utf-8")
    assert len({before, found(folder), found(folder, split="test")}) == 3


def test_the_fingerprint_of_the_hub_holds_what_is_asked_for():
    asked = [{}, {"config": "en"}, {"split": "test"}, {"revision": "v2"}]
    found = {hub.Source(hub.Config(name="some/set", **keys)).fingerprint("data.train") for keys in asked}
    assert len(found) == 4


def test_a_large_data_set_is_read_in_parts_and_bad_rows_keep_their_numbers(folder, monkeypatch):
    rows = [json.dumps({"text": f"text {n}" if n != 7 else None}) for n in range(10)]
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "test.jsonl").unlink()
    monkeypatch.setattr(_files, "PART", 40)
    assert len(hub.Source(hub.Config(name=str(folder))).parts("data.train")) > 2
    found = read(folder)
    assert [row["text"] for row in found[:7] + found[8:]] == [f"text {n}" for n in range(10) if n != 7]
    assert str(found[7]).endswith("set[train] row 7: data.train.text: column 'text' is no text but NoneType")


@pytest.mark.parametrize("name", ["set[1]", "s*", "s?"])
def test_a_folder_that_datasets_would_take_for_a_pattern_is_refused(folder, name):
    odd = folder.rename(folder.with_name(name))
    with pytest.raises(UserError, match=r"takes one of \* \? \[ in the path of a folder for a pattern"):
        read(odd)
