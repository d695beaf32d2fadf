"""Stratified validation: a share of each label is held out."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.plan import facts
from launcher.prepare import prepared_data, strata, tokenizer
from launcher.prepare.prepared_samples import PreparedSamples

contents = st.lists(st.tuples(st.text("abc", max_size=3), st.sampled_from(["x", "y", "z"])), min_size=1, max_size=60)


@pytest.fixture(autouse=True)
def own(workspace, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    return workspace


def batch(rows):
    columns = {"text": pa.array([text for text, _ in rows], pa.large_string())}
    return pa.RecordBatch.from_pydict({**columns, "label": [label for _, label in rows]})


def split(rows, fraction, folder, parts=1):
    """Return the strata and which rows are held out, with the rows divided into `parts` shards."""
    files = [folder / f"{n}.arrow" for n in range(parts)]
    for n, file in enumerate(files):
        strata.save(file, [strata.hashed_labels(batch(rows[n::parts]))])
    found = strata.split(files, fraction)
    return found, [bool(held) for held in found.held_out(batch(rows))]


@settings(deadline=None, max_examples=60)
@given(contents, st.floats(0.01, 0.99))
def test_each_label_gives_its_share_and_equal_contents_are_on_one_side(tmp_path_factory, rows, fraction):
    found, held = split(rows, fraction, tmp_path_factory.mktemp("strata"))
    sides = {}
    for (text, _), out in zip(rows, held, strict=True):
        assert sides.setdefault(text, out) == out
    first = {}
    for text, label in rows:
        first[text] = min(label, first.get(text, label))
    by_label = Counter(first.values())
    assert found.counts == by_label
    for label, count in by_label.items():
        expected = min(max(1, round(fraction * count)), count - 1)
        assert sum(out for text, out in sides.items() if first[text] == label) == expected


@settings(deadline=None, max_examples=30)
@given(contents, st.integers(2, 4), st.randoms())
def test_shards_and_the_order_of_rows_play_no_part(tmp_path_factory, rows, parts, random):
    _, held = split(rows, 0.3, tmp_path_factory.mktemp("strata"))
    order = random.sample(range(len(rows)), len(rows))
    _, again = split([rows[n] for n in order], 0.3, tmp_path_factory.mktemp("strata"), parts)
    assert [again[order.index(n)] for n in range(len(rows))] == held


def prepared(rows, **changes):
    Path("rows.jsonl").write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows))
    config = support.classification(
        data__train={"kind": "jsonl", "path": "rows.jsonl"}, data__validation={"fraction": 0.1, **changes}
    )
    folder = prepared_data.prepare(Recipe.model_validate(config), processes=1)
    words, known = tokenizer.load(str(folder / "tokenizer"), "tokenizer"), facts.read(folder)
    sides = {}
    for side in ("train", "validation"):
        samples = PreparedSamples(folder, side)
        found = samples.rows(range(len(samples)))
        texts = [words.decode(row["input_ids"].tolist(), skip_special_tokens=True) for row in found]
        sides[side] = sorted(zip(texts, (known.labels[int(row["label"])] for row in found), strict=True))
    return known, sides


def test_a_rare_label_is_in_the_validation_and_noted():
    rows = [(f"number {n} of many", "common") for n in range(200)] + [(f"rare {n}", "rare") for n in range(4)]
    known, sides = prepared([*rows, ("alone", "single")], stratify="auto")
    assert Counter(label for _, label in sides["validation"]) == {"common": 20, "rare": 1}
    assert Counter(label for _, label in sides["train"]) == {"common": 180, "rare": 3, "single": 1}
    assert known.labels == ["common", "rare", "single"]
    assert known.notes == [
        "2 labels with fewer than 10 different rows, the fewest: 'single' with 1 (validation says little of them; a "
        "label with a single row is not held out)"
    ]


def test_without_it_the_split_and_the_name_of_the_data_are_as_before():
    rows = [(f"number {n} of many", "odd" if n % 2 else "even") for n in range(100)]
    known, sides = prepared(rows)
    plain, same = prepared(rows, stratify="none")
    assert (known.digest, sides) == (plain.digest, same)
    other, held = prepared(rows, stratify="auto")
    assert other.digest != known.digest
    assert Counter(label for _, label in held["validation"]) == {"odd": 5, "even": 5}


@pytest.mark.parametrize("labels", ["single", "multi"])
def test_only_a_task_of_one_label_is_stratified(labels):
    config = support.classification(data__validation={"fraction": 0.1, "stratify": "auto"}, task__labels=labels)
    recipe = Recipe.model_validate(config)
    task = plugins.task(recipe.inner_task)
    assert strata.stratified(recipe.data, tuple(task.required_columns(recipe.inner_task))) == (labels == "single")
    language = Recipe.model_validate(support.mlm(data__validation={"fraction": 0.1, "stratify": "auto"}))
    assert not strata.stratified(language.data, ("text",))
    shutil.rmtree("cache", ignore_errors=True)
