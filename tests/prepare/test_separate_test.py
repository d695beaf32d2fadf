"""Test sets: a share of the training rows, or sources of their own, which change nothing that is trained."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import support

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe, trajectory
from launcher.prepare import row_batches, separate_test, source_shards, tokenizer
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.storage import cache_root


@pytest.fixture(autouse=True)
def own(workspace, monkeypatch):
    """A folder with a small corpus, and a cache of its own."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    return workspace


def recipe(**changes):
    return Recipe.model_validate(support.classification(**changes))


def rows(file="corpus.jsonl"):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def texts(folder, side):
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    samples = PreparedSamples(folder, side)
    return sorted(
        words.decode(row["input_ids"].tolist(), skip_special_tokens=True) for row in samples.rows(range(len(samples)))
    )


def cut(found, folder):
    """Texts as they are read back from samples of the same tokenizer."""
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    return sorted(
        words.decode(words(text, truncation=True, max_length=32)["input_ids"], skip_special_tokens=True)
        for text in found
    )


def test_a_share_is_disjoint_from_training_and_validation_and_leaves_validation_as_it_is():
    without, known = separate_test.prepare_all(recipe(data__validation={"fraction": 0.2}), None)
    folder, both = separate_test.prepare_all(
        recipe(data__validation={"fraction": 0.2}, data__test={"fraction": 0.3}), None
    )
    column = pa.RecordBatch.from_pydict({"text": pa.array([row["text"] for row in rows()], pa.large_string())})
    test = row_batches.held_out_for_test(column, 0.3)
    validation = row_batches.held_out(column, 0.2)
    assert not (test & validation).any() and 20 < test.sum() < 55
    expected = {"train": ~test & ~validation, "validation": validation, "test": test}
    for side, mask in expected.items():
        assert texts(folder, side) == cut([r["text"] for r, own in zip(rows(), mask, strict=True) if own], folder)
        assert both.samples[side] == both.documents[side] == mask.sum()
    assert known.samples["validation"] == both.samples["validation"] and "test" not in known.samples
    assert both.test_baseline.keys() == both.baseline.keys() and not both.test_digest
    assert without != folder


def test_a_stratified_split_leaves_the_test_share_out():
    data = {"data__validation": {"fraction": 0.2, "stratify": "auto"}, "data__test": {"fraction": 0.3}}
    known = separate_test.prepare_all(recipe(**data), None)[1]
    assert sum(known.documents.values()) == len(rows())
    assert min(known.documents.values()) > 10


def test_sources_of_their_own_have_a_folder_of_their_own_and_no_row_of_the_others(own):
    train = rows()
    for name, some in {"train": train[:90], "held": train[90:100]}.items():
        support_lines(f"{name}.jsonl", some)
    support_lines("test.jsonl", [*train[:5], *train[95:98], *train[100:]])
    data = {"kind": "jsonl", "path": "train.jsonl"}, {"kind": "jsonl", "path": "held.jsonl"}
    plain = recipe(data__train=data[0], data__validation=data[1])
    folder, known = separate_test.prepare_all(plain, None)
    before = support.tree(folder)
    tested = recipe(data__train=data[0], data__validation=data[1], data__test={"kind": "jsonl", "path": "test.jsonl"})
    again, both = separate_test.prepare_all(tested, None)
    assert again == folder and support.tree(folder) == before, "the cache of training and validation is as it was"
    assert trajectory(tested) == trajectory(plain)
    assert both.model_copy(update={"test_digest": "", "test_baseline": {}}).samples == {**known.samples, "test": 20}
    assert both.digest == known.digest and both.longest == known.longest
    test = separate_test.folder_of(both, folder)
    assert test == cache_root.prepared(both.test_digest) and test != folder
    assert not (folder / "test.arrow").exists() and not (test / "train.arrow").exists()
    samples = PreparedSamples(test, "test")
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    found = [words.decode(row["input_ids"].tolist(), skip_special_tokens=True) for row in samples.rows(range(20))]
    assert sorted(found) == cut([row["text"] for row in train[100:]], folder)
    assert [note for note in both.notes if "data.test" in note] == [
        "8 rows of data.test that training or validation has too: left out"
    ]
    assert separate_test.find(tested, known, folder) == both


def support_lines(file, some):
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")


def test_a_test_set_of_training_rows_alone_is_refused_and_leaves_no_folder():
    made = recipe(data__test={"kind": "jsonl", "path": "corpus.jsonl", "limit": 7})
    with pytest.raises(
        UserError, match=r"data\.test: each of its 7 rows stands in the training or validation data too"
    ):
        separate_test.prepare_all(made, None)
    assert len(list(cache_root.prepared("x").parent.glob("[!.]*"))) == 1


def test_what_is_wrong_with_its_source_is_found_by_the_plan():
    support.write(support.classification(data__test={"kind": "jsonl", "path": "nowhere.jsonl"}))
    assert "recipe.yaml:" in (line := support.launcher("plan", "recipe.yaml", code=2).stderr) and "data.test" in line
    assert source_shards.preview_problems(
        recipe(data__test={"kind": "jsonl", "path": "corpus.jsonl", "label": "lable"})
    )


def test_a_label_that_training_lacks_is_refused_with_the_key():
    support_lines("test.jsonl", [{"text": "another one", "label": "unheard-of"}])
    with pytest.raises(UserError, match=r"data\.test.*unheard-of"):
        separate_test.prepare_all(recipe(data__test={"kind": "jsonl", "path": "test.jsonl"}), None)
