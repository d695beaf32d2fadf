"""Folders written by `save_to_disk` of `datasets`."""

import pytest
from data.reading import read as read_source
from data.reading import told
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from launcher.config.errors import UserError
from launcher.data import _files, arrow

ROWS = {"text": ["a", "b", "c", "d"], "topic": [1, 0, -1, 1]}
FEATURES = Features({"text": Value("string"), "topic": ClassLabel(names=["sport", "art"])})


@pytest.fixture
def folder(tmp_path):
    Dataset.from_dict(ROWS, features=FEATURES).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def splits(tmp_path):
    both = {name: Dataset.from_dict({"text": [f"{name} {n}" for n in range(3)]}) for name in ("train", "test")}
    DatasetDict(both).save_to_disk(tmp_path / "splits")
    return tmp_path / "splits"


def read(folder, *columns, **keys):
    return read_source(arrow, arrow.Config(path=str(folder), **keys), *columns)


def test_labels_that_are_numbers_of_names_are_given_by_name_and_a_missing_one_is_told(folder):
    found = read(folder, "text", "label", label="topic")
    assert found[:2] == [{"text": "a", "label": "art"}, {"text": "b", "label": "sport"}]
    assert told(found) == [f"{folder} row 2: data.train.label: has no label (-1): choose another split"]


def test_a_split_is_chosen_by_its_name(splits):
    assert [row["text"] for row in read(splits, split="test")] == ["test 0", "test 1", "test 2"]


@pytest.mark.parametrize(
    ("where", "split", "message"),
    [
        ("splits", None, r"splits has several: choose one \(test, train\)"),
        ("splits", "tets", r"unknown split 'tets' \(did you mean test\?\)"),
        ("folder", "train", r"set has no splits: leave it out"),
    ],
)
def test_a_split_that_is_not_there_is_told(where, split, message, request):
    with pytest.raises(UserError, match=r"^data\.train\.split: .*" + message):
        read(request.getfixturevalue(where), split=split)


def test_parts_are_ranges_of_rows_in_order_even_of_a_selection(tmp_path, monkeypatch):
    chosen = Dataset.from_dict({"text": [f"text {n}" for n in range(40)]}).select(range(39, -1, -2))
    chosen.save_to_disk(tmp_path / "chosen")
    monkeypatch.setattr(_files, "PART", 60)
    assert len(arrow.Source(arrow.Config(path=str(tmp_path / "chosen"))).parts("data.train")) > 3
    assert [row["text"] for row in read(tmp_path / "chosen")] == [f"text {n}" for n in range(39, -1, -2)]


def test_a_missing_column_is_told_at_once_with_those_there_are(folder):
    with pytest.raises(UserError, match=r"^data\.train\.text: .*set: no column 'body' \(there are: text, topic\)"):
        read(folder, text="body")


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^data\.train\.path: .*nowhere: no such folder"):
        arrow.Source(arrow.Config(path=str(tmp_path / "nowhere"))).fingerprint("data.train")


def test_a_folder_of_something_else_and_a_damaged_one_are_told(folder, tmp_path):
    (tmp_path / "other").mkdir()
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    for where in ("other", "set"):
        with pytest.raises(UserError, match=rf"{where}: is not what datasets' save_to_disk writes, or is damaged: "):
            read(tmp_path / where)


def test_the_fingerprint_changes_with_the_content_and_the_split_and_not_with_the_place(folder, splits, tmp_path):
    def found(where, **keys):
        return arrow.Source(arrow.Config(path=str(where), **keys)).fingerprint("data.train")

    before = found(folder)
    folder = folder.rename(tmp_path / "moved")
    assert found(folder) == before
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes() + b"\0")
    assert len({before, found(folder), found(splits, split="train"), found(splits, split="test")}) == 4
