"""Prepared folders, named by their content."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.data import _files
from launcher.plan import facts
from launcher.prepare import (
    duplicates,
    preparation,
    prepared_data,
    process_pool,
    row_batches,
    shards,
    source_shards,
    tokenizer,
)
from launcher.prepare.preparation import Preparation
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.storage import cache_root

properties = settings(deadline=None, max_examples=60)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(autouse=True)
def own(workspace, monkeypatch):
    """A folder with a small corpus, and a cache of its own."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    return workspace


def recipe(**changes):
    return Recipe.model_validate(support.mlm(**changes))


def labelled(**changes):
    return Recipe.model_validate(support.classification(**changes))


def lines(file="corpus.txt"):
    return Path(file).read_text(encoding="utf-8").splitlines()


def decoded(folder, side):
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    samples = PreparedSamples(folder, side)
    rows = samples.rows(range(len(samples)))
    return [words.decode(row["input_ids"].tolist(), skip_special_tokens=True) for row in rows]


def left():
    """List the prepared folders in the cache."""
    root = cache_root.prepared("x").parent
    return sorted(root.iterdir()) if root.is_dir() else []


def held_out(fraction, *texts):
    """Return which rows are held out."""
    names = ("text", "text_pair")
    columns = {name: pa.array(values, pa.large_string()) for name, values in zip(names, texts, strict=False)}
    return row_batches.held_out(pa.RecordBatch.from_pydict(columns), fraction).tolist()


def jsonl(file, rows):
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "jsonl", "path": str(file)}


def mixture(weights=(3, 1), **sources):
    return {"kind": "mixture", "sources": sources, "weights": dict(zip(sources, weights, strict=True))}


def known(config):
    return facts.read(prepared_data.prepare(config))


def prepared_anew(config, monkeypatch, name, processes=None):
    """Prepare a folder in a cache of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("LAUNCHER_CACHE", name)
        return prepared_data.prepare(config, processes=processes)


def content(folder):
    """Return the bytes of every file in a folder."""
    return {str(Path(name).relative_to(folder)): held for name, held in support.tree(folder).items()}


@pytest.fixture
def finely(monkeypatch):
    """Divide sources into many small parts."""
    monkeypatch.setattr(_files, "PART", 1500)


@pytest.fixture
def spread(finely, monkeypatch):
    """Use several processes for little work, too."""
    monkeypatch.setattr(process_pool, "SMALL", 0)


# Its name


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"seed": 4},
        {"optimizer__lr": 1.0},
        {"train__global_batch": 3, "train__max_tokens": None},
        {"model__hidden_size": 32},
        {"sinks": ["console"]},
        {"task__mask_rate": 0.3},
        {"task__mask_rate": {"start": 0.3, "end": 0.1}},
        {"task__mask": "spans"},
        {"task__split": [1.0, 0.0, 0.0]},
        {"task__never": ["the"]},
        {"task__samples": "packed"},
    ],
    ids=str,
)
def test_what_is_no_content_does_not_change_the_name(changes):
    assert prepared_data.identity(recipe(**changes)) == prepared_data.identity(recipe())


def test_where_the_content_stands_does_not_change_the_name(own):
    before = prepared_data.identity(recipe())
    (own / "elsewhere").mkdir()
    Path("corpus.txt").rename("elsewhere/renamed.txt")
    for path in ("elsewhere/renamed.txt", str(own / "elsewhere" / "*.txt"), ["elsewhere/renamed.txt"]):
        assert prepared_data.identity(recipe(data__train__path=path)) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer__vocab_size": 121},
        {"tokenizer__algorithm": "bpe"},
        {"tokenizer__lowercase": False},
        {"data__max_length": 31},
        {"data__train__document": "paragraph"},
        {"data__train__limit": 50},
        {"data__train__on_bad_row": "skip"},
        {"data__deduplicate": True},
        {"data__validation__fraction": 0.2},
        {"data__validation": None},
        {"data__validation": {"kind": "text", "path": "corpus.txt"}},
        {"task__samples": "chunks"},
        {"task__overflow": "split"},
        {"task": {"kind": "sequence_classification"}},
    ],
    ids=str,
)
def test_what_decides_the_samples_changes_the_name(changes):
    assert prepared_data.identity(recipe(**changes)) != prepared_data.identity(recipe())


def test_another_text_changes_the_name_and_the_old_one_brings_it_back():
    text, found = Path("corpus.txt").read_bytes(), []
    for content in (text, text + b"one more\n", text.replace(b"the", b"teh", 1), text):
        Path("corpus.txt").write_bytes(content)
        found.append(prepared_data.identity(recipe()))
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_another_validation_text_changes_the_name():
    own = {"kind": "text", "path": "validation.txt"}
    found = set()
    for text in ("one", "two", "one"):
        Path("validation.txt").write_text(text, encoding="utf-8")
        found.add(prepared_data.identity(recipe(data__validation=own)))
    assert len(found) == 2


def test_weights_of_a_mixture_do_not_change_the_name_but_its_sources_do():
    one, other = jsonl("one.jsonl", [{"text": "a"}]), jsonl("other.jsonl", [{"text": "b"}])
    first, *others = (
        prepared_data.identity(recipe(data__train=train))
        for train in (
            mixture(a=one, b=other),
            mixture((1, 5), a=one, b=other),
            mixture(a=other, b=one),
            mixture(b=one, a=other),
            mixture(a=one, c=other),
            mixture(a=one, b={**other, "limit": 3}),
        )
    )
    assert [found == first for found in others] == [True, False, False, False, False]


def test_all_that_cannot_be_found_is_told_at_once():
    missing = {
        "data__train__path": "no.txt",
        "data__validation": {"kind": "text", "path": "none.txt"},
        "tokenizer": None,
    }
    with pytest.raises(UserError) as told:
        prepared_data.identity(recipe(**missing))
    keys = ["data.train.path", "data.validation.path", "tokenizer"]
    assert [problem.key for problem in told.value.problems] == keys


# The split


@properties
@given(texts, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_row_stays_where_it_is_when_more_is_held_out(text, one, other):
    (less,), (more,) = (held_out(fraction, [text]) for fraction in sorted((one, other)))
    assert more or not less


@properties
@given(st.lists(texts, min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_what_stands_beside_a_row_plays_no_part(rows, fraction):
    assert held_out(fraction, rows) == [held_out(fraction, [row])[0] for row in rows]


def test_equal_texts_are_held_out_together_whatever_their_labels():
    rows = [{"text": f"document {n // 2}", "label": ["few", "many"][n % 2]} for n in range(80)]
    config = labelled(data__train=jsonl("rows.jsonl", rows), data__max_length=64, data__validation__fraction=0.5)
    sides = [set(decoded(prepared_data.prepare(config), side)) for side in ("train", "validation")]
    assert len(sides[0]) > 5
    assert len(sides[1]) > 5
    assert not sides[0] & sides[1]


def test_as_many_rows_are_held_out_as_was_asked_for():
    for fraction in (0.02, 0.15, 0.5):
        held = sum(held_out(fraction, [f"document {n}" for n in range(10_000)]))
        assert abs(held / 10_000 - fraction) < 4 * (fraction * (1 - fraction) / 10_000) ** 0.5


def test_pairs_are_held_out_by_both_of_their_texts():
    sides = held_out(0.5, ["same"] * 50, [str(n) for n in range(50)])
    assert set(sides) == {True, False}


def test_the_sides_hold_the_rows_that_belong_there_in_the_order_of_the_source():
    folder = prepared_data.prepare(recipe(data__max_length=200))
    held = held_out(0.15, lines())
    assert decoded(folder, "train") == [x for x, out in zip(lines(), held, strict=True) if not out]
    assert decoded(folder, "validation") == [x for x, out in zip(lines(), held, strict=True) if out]


def test_adding_data_moves_nobody_to_the_other_side():
    before = prepared_data.prepare(recipe(data__max_length=200))
    with Path("corpus.txt").open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in [*lines()[:40], *reversed(lines()[40:80])])
    after = prepared_data.prepare(recipe(data__max_length=200))
    assert before != after
    for side in ("train", "validation"):
        assert set(decoded(before, side)) == set(decoded(after, side))
        assert len(decoded(before, side)) < len(decoded(after, side))


# What is in it


def test_the_facts_are_those_of_the_samples():
    folder = prepared_data.prepare(recipe())
    known = facts.read(folder)
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    assert known.left_out == {}
    assert known.notes == []
    assert known.sources == {"text": known.samples["train"]}
    assert known.documents == known.samples
    assert sum(known.lengths.values()) == known.samples["train"]
    assert sum(length * count for length, count in known.lengths.items()) == known.tokens["train"]
    assert known.digest == folder.name == prepared_data.identity(recipe())
    assert known.vocab_size == len(words) == 120
    assert known.special_ids == sorted(words.all_special_ids)
    assert (known.pad_token_id, known.mask_token_id) == (words.pad_token_id, words.mask_token_id)
    longest = 0
    for side in ("train", "validation"):
        samples = PreparedSamples(folder, side)
        lengths = samples.lengths(range(len(samples)))
        assert known.samples[side] == len(samples)
        assert known.tokens[side] == lengths.sum()
        longest = max(longest, lengths.max())
    assert known.longest == longest
    assert sum(known.samples.values()) == len(lines())


def test_nothing_else_is_left_in_the_folder():
    names = {path.name for path in prepared_data.prepare(recipe()).iterdir()}
    assert names == {"tokenizer", "train.arrow", "validation.arrow", "facts.json"}


def test_what_is_prepared_again_is_the_same_to_the_byte(monkeypatch):
    made = []
    for place in ("one", "other"):
        monkeypatch.setenv("LAUNCHER_CACHE", place)
        made.append(list(support.tree(prepared_data.prepare(recipe())).values()))
    assert made[0] == made[1]


def test_what_is_prepared_is_not_made_again():
    folder = prepared_data.prepare(recipe())
    changed = folder.stat().st_mtime_ns
    assert prepared_data.prepare(recipe()) == folder
    assert folder.stat().st_mtime_ns == changed


def test_more_rows_than_one_batch_holds_are_all_there_in_order():
    written = [f"the {n}th document has some words" for n in range(2300)]
    Path("corpus.txt").write_text("\n".join(written), encoding="utf-8")
    folder = prepared_data.prepare(recipe(data__validation=None, tokenizer__vocab_size=400))
    assert decoded(folder, "train") == written


def test_a_side_without_validation_has_no_baseline():
    found = known(recipe(data__validation=None))
    assert found.baseline == {}
    assert list(found.samples) == list(found.documents) == ["train"]


def test_the_tokenizer_has_not_seen_the_validation_side():
    Path("validation.txt").write_text("zq zq zq zq", encoding="utf-8")
    folder = prepared_data.prepare(recipe(data__validation={"kind": "text", "path": "validation.txt"}))
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    assert not {"z", "q", "##q"} & set(words.get_vocab())
    assert decoded(folder, "validation") == [""]


def test_the_tokenizer_has_seen_both_texts_of_a_pair():
    rows = [{"text": "first", "text_pair": "second", "label": n % 2} for n in range(6)]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = prepared_data.prepare(labelled(data__train__text_pair="text_pair", data__validation=None))
    assert decoded(made, "train") == ["first second"] * 6


def test_labels_may_be_numbers_and_keep_their_order():
    rows = [{"text": f"document {n}", "label": n % 12} for n in range(60)]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = prepared_data.prepare(labelled(data__validation=None))
    assert facts.read(folder).labels == [str(n) for n in range(12)]
    assert [row["label"] for row in PreparedSamples(folder, "train").rows(range(60))] == [n % 12 for n in range(60)]


def test_a_pretrained_tokenizer_is_used_as_it_is(own):
    first = prepared_data.prepare(recipe())
    name = str(first / "tokenizer")
    folder = prepared_data.prepare(recipe(tokenizer={"kind": "pretrained", "name": name}))
    assert folder != first
    for side in ("train", "validation"):
        one, other = ([row["input_ids"] for row in PreparedSamples(f, side).rows(range(9))] for f in (first, folder))
        assert all(map(np.array_equal, one, other))


# However it is cut, and by however many processes


def rows(*numbers, **more):
    return [{"text": f"row {n} has {n % 7} words of {n % 3} kinds and more", **more} for n in numbers]


def mixed(**changes):
    """Two sources with common rows, empty rows and bad rows."""
    first = jsonl("first.jsonl", [*rows(*range(60)), {"text": ""}, *rows(*range(10)), {"text": 5}])
    second = jsonl("second.jsonl", [{"text": None}, *rows(*range(50, 90)), {"text": ""}, {"txt": ""}, *rows(3, 95)])
    train = mixture(a={**first, "on_bad_row": "skip"}, b={**second, "on_bad_row": "skip"})
    return recipe(**{"data__train": train, "data__deduplicate": True, "data__validation__fraction": 0.2, **changes})


@pytest.mark.parametrize(
    "made",
    [lambda: mixed(task__samples="chunks"), lambda: labelled(data__deduplicate=True)],
    ids=["a mixture in chunks", "labelled documents"],
)
def test_the_number_of_processes_changes_no_byte(spread, monkeypatch, made):
    cut = source_shards.shards(source_shards.leaves(made().data))
    one, two = (prepared_anew(made(), monkeypatch, f"with-{processes}", processes) for processes in (1, 2))
    assert len(cut) > 3
    assert one.name == two.name
    assert content(one) == content(two)


def test_the_cuts_change_no_document(finely, monkeypatch):
    """Nor the tokenizer. Chunks, joined of documents, end with a shard."""
    one = prepared_anew(mixed(), monkeypatch, "finely")
    monkeypatch.setattr(_files, "PART", 2**20)
    other = prepared_anew(mixed(), monkeypatch, "whole")
    assert facts.read(one) == facts.read(other)
    assert content(one / "tokenizer") == content(other / "tokenizer")
    for side in ("train", "validation"):
        assert decoded(one, side) == decoded(other, side)


def test_a_shard_of_very_many_samples_is_written_a_part_at_a_time(monkeypatch):
    whole = prepared_anew(labelled(), monkeypatch, "whole")
    monkeypatch.setattr(source_shards, "_BATCH_ROWS", 10)
    monkeypatch.setattr(shards, "_TABLE_BYTES", 1500)
    apart = prepared_anew(labelled(), monkeypatch, "apart")
    assert facts.read(whole) == facts.read(apart)
    assert decoded(whole, "train") == decoded(apart, "train")
    with pa.ipc.open_stream(apart / "train.arrow") as stream:
        assert 1 < len(list(stream)) < 11


def test_the_facts_of_a_mixture_are_told_by_source(finely):
    found = known(mixed())
    texts = {"a": [f["text"] for f in rows(*range(60))], "b": [f["text"] for f in rows(*range(60, 90), 95)]}
    train = {name: held_out(0.2, mine).count(False) for name, mine in texts.items()}
    empty_held = held_out(0.2, [""])[0]
    assert found.sources == train
    assert found.samples["train"] == sum(train.values())
    assert found.left_out == {"bad": 3, "duplicates": 10 + 10 + 1 + 1, "empty": 1}
    assert sum(found.documents.values()) == 60 + 31 + 1
    assert found.documents["train"] == sum(train.values()) + (not empty_held)
    first = "first.jsonl:72: data.train.sources.a.text: column 'text' is no text but int"
    assert found.notes == [f"3 bad rows left out, the first: {first}"]


@pytest.mark.parametrize("at_once", [2**23, 7, 1])
def test_of_rows_with_equal_content_the_first_is_kept(finely, monkeypatch, at_once):
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", at_once)
    written = [f"document {n % 23} of {n % 5}" for n in range(200)]
    train = jsonl("rows.jsonl", [{"text": text} for text in written])
    folder = prepared_data.prepare(recipe(data__train=train, data__validation=None, data__deduplicate=True))
    assert decoded(folder, "train") == list(dict.fromkeys(written))
    assert facts.read(folder).left_out == {"duplicates": 200 - len(set(written))}


def test_a_label_and_a_second_text_are_content():
    pairs = [("a", "b", 0), ("a", "b", 1), ("a", "c", 0), ("a", "b", 0), ("a\0b", "c", 0), ("a", "b\0c", 0)]
    train = jsonl("rows.jsonl", [{"text": one, "text_pair": other, "label": label} for one, other, label in pairs])
    found = known(labelled(data__train={**train, "text_pair": "text_pair"}, data__validation=None,
                           data__deduplicate=True))  # fmt: skip
    assert found.left_out == {"duplicates": 1}
    assert found.samples == {"train": 5}


def test_validation_data_of_its_own_is_not_deduplicated():
    train, validation = jsonl("a.jsonl", rows(1, 1, 2)), jsonl("b.jsonl", rows(1, 1, 3))
    found = known(recipe(data__train=train, data__validation=validation, data__deduplicate=True))
    assert found.samples == {"train": 2, "validation": 3}
    assert found.left_out == {"duplicates": 1}


def test_nothing_is_dropped_unless_asked_for():
    assert known(recipe(data__train=jsonl("a.jsonl", rows(1, 1, 2)), data__validation=None)).samples == {"train": 3}


def test_the_same_rows_are_held_out_with_and_without_duplicates():
    train = jsonl("a.jsonl", rows(*range(40), *range(20)))
    with_them, without = (
        prepared_data.prepare(recipe(data__train=train, data__deduplicate=dropped, data__max_length=64))
        for dropped in (False, True)
    )
    for side in ("train", "validation"):
        assert list(dict.fromkeys(decoded(with_them, side))) == decoded(without, side)


def test_a_limit_takes_the_first_rows_that_can_be_used(finely):
    train = jsonl("a.jsonl", [{"text": 1}, *rows(*range(50)), {"text": 2}, *rows(*range(50, 90))])
    train |= {"on_bad_row": "skip", "limit": 60}
    folder = prepared_data.prepare(recipe(data__train=train, data__validation=None, data__max_length=64))
    assert decoded(folder, "train") == [row["text"] for row in rows(*range(60))]
    assert facts.read(folder).left_out == {"bad": 2}


def test_behind_the_last_row_of_a_limit_nothing_is_read(workspace):
    """The quote that is never closed, and the text that is no JSON, are of rows that nobody asked for."""
    Path("a.csv").write_text("text\n" + "".join(f"{row['text']}\n" for row in rows(*range(60))) + '"never closed\n' * 9)
    lines = [json.dumps(row) for row in rows(*range(60))]
    Path("a.jsonl").write_text("\n".join([*lines, "{"]))
    for kind in ("csv", "jsonl"):
        train = {"kind": kind, "path": f"a.{kind}", "limit": 60}
        folder = prepared_data.prepare(recipe(data__train=train, data__validation=None, data__max_length=64))
        assert decoded(folder, "train") == [row["text"] for row in rows(*range(60))]
        with pytest.raises(UserError, match=f"a.{kind}:6[12]: "):
            prepared_data.prepare(recipe(data__train=train | {"limit": 61}, data__validation=None))


def test_a_mixture_of_pairs_and_single_texts_is_refused():
    pairs = [{"text": "a", "text_pair": "b", "label": n} for n in range(4)]
    sources = {"a": jsonl("a.jsonl", pairs) | {"text_pair": "text_pair"}, "b": jsonl("b.jsonl", pairs)}
    told = mistake(labelled(data__train=mixture(**sources), data__validation=None))
    assert told == "data.train.sources.b: pairs of texts in one source and single texts in another do not mix"


# Mistakes


def mistake(config):
    with pytest.raises(UserError) as told:
        prepared_data.prepare(config)
    assert left() == [], "something half-made is left"
    return str(told.value)


def test_no_document_is_told():
    Path("corpus.txt").write_text("\n \n", encoding="utf-8")
    assert mistake(recipe()).startswith("data.train: there is no document in it")


def test_no_validation_document_is_told():
    Path("empty.txt").touch()
    own = {"kind": "text", "path": "empty.txt"}
    assert mistake(recipe(data__validation=own)).startswith("data.validation: there is no document in it")


def test_a_fraction_that_leaves_nothing_for_one_side_is_told():
    Path("corpus.txt").write_text("one\n", encoding="utf-8")
    told = mistake(recipe())
    assert told.startswith("data.validation.fraction: holds out ")
    assert "of 1 documents" in told


def test_a_mistake_in_the_last_line_leaves_nothing_half_made():
    with Path("corpus.jsonl").open("a") as file:
        file.write("{\n")
    assert "corpus.jsonl:121: not valid JSON" in mistake(labelled())


def test_a_label_of_the_validation_side_alone_is_told_and_leaves_nothing():
    rows = [*lines("corpus.jsonl")[:20], json.dumps({"text": "a", "label": "mny"})]
    Path("other.jsonl").write_text("\n".join(rows), encoding="utf-8")
    told = mistake(labelled(data__validation={"kind": "jsonl", "path": "other.jsonl"}))
    assert told.startswith("data.validation.label: 'mny' stands in the validation data and not in")
    assert "did you mean many?" in told


def test_a_tokenizer_without_a_mask_token_is_refused_by_masked_language_modelling(own):
    first = prepared_data.prepare(recipe())
    words = tokenizer.load(str(first / "tokenizer"), "tokenizer")
    words.mask_token = None
    words.save_pretrained(own / "maskless")
    with pytest.raises(UserError, match=r"^tokenizer: has no mask token"):
        prepared_data.prepare(recipe(tokenizer={"kind": "pretrained", "name": str(own / "maskless")}))
    assert left() == [first]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "there is no document in it (is the path, the column or the split right?)"),
        ([{"text": ""}], "no token is found in 1 document, which is all of it"),
        ([{"text": 1}, {"text": 2}], "none of its 2 rows can be used: b.jsonl:1: data.train.sources.b.text: "
                                     "column 'text' is no text but int"),
    ],
)  # fmt: skip
def test_a_source_of_a_mixture_without_a_sample_is_named(rows, told):
    sources = {"a": jsonl("a.jsonl", [{"text": "a"}]), "b": {**jsonl("b.jsonl", rows), "on_bad_row": "skip"}}
    assert mistake(recipe(data__train=mixture(**sources), data__validation=None)) == f"data.train.sources.b: {told}"


def test_a_bad_row_is_told_with_what_to_do():
    told = mistake(recipe(data__train=jsonl("a.jsonl", [{"text": "a"}, {"text": 3}])))
    what = "a.jsonl:2: data.train.text: column 'text' is no text but int"
    assert told == f"{what} (or data.train.on_bad_row: skip, to leave such rows out)"


def test_a_source_that_changes_while_it_is_prepared_is_told(monkeypatch):
    before, make = prepared_data.identity(recipe()), Preparation._make_tokenizer

    def meanwhile(self, jobs):
        with Path("corpus.txt").open("a") as file:
            file.write("one more\n")
        make(self, jobs)

    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "_make_tokenizer", meanwhile)
        assert mistake(recipe()) == "data.train: the source changed while it was being prepared (start again)"
    after = prepared_data.prepare(recipe())
    assert after.name != before
    assert sum(facts.read(after).samples.values()) == 121


# Mishaps

FRAGILE = """
import os
import signal
from pathlib import Path
from launcher import data
from launcher.data import Part
from launcher.data._source import SourceConfig

class Config(SourceConfig):
    kind: str = "fragile.source"

class Source(data.Source):
    def __init__(self, config):
        self.config = config

    def fingerprint(self, key):
        return "always the same"

    def parts(self, key):
        return [Part((str(number),), size=1) for number in range(6)]

    def rows(self, columns, key, part):
        with Path("reads").open("a") as out:
            out.write(part.files[0])
        if part.files == ("4",) and not Path("mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        for n in range(50):
            yield {"text": f"document {n} of fifty in {part.files[0]}"}
"""


def test_a_process_of_several_that_is_killed_is_told_and_the_next_command_goes_on(spread, monkeypatch):
    monkeypatch.syspath_prepend(".")
    Path("fragile").mkdir()
    Path("fragile/source.py").write_text(FRAGILE, encoding="utf-8")
    pretrained = {"kind": "pretrained", "name": str(prepared_data.prepare(recipe()) / "tokenizer")}
    config = recipe(data__train={"kind": "fragile.source"}, tokenizer=pretrained)
    with pytest.raises(RuntimeError, match=r"^a process that prepared data was killed \(out of memory\?\)"):
        prepared_data.prepare(config, processes=2)
    finished = len(list(cache_root.prepared(f".{prepared_data.identity(config)}.work").glob("shard-*.json")))
    Path("mended").touch()
    Path("reads").unlink()
    assert finished > 0
    folder = prepared_data.prepare(config, processes=1)
    assert len(Path("reads").read_text()) == 6 - finished
    assert content(folder) == content(prepared_anew(config, monkeypatch, "undisturbed", 1))
    assert folder in left()
    assert not [path for path in left() if path.name.startswith(".")]


@pytest.mark.parametrize("damage", ["", "[]", '{"vocab_size": "x"}'])
def test_a_step_whose_file_was_emptied_by_a_power_failure_is_done_again(monkeypatch, damage):
    def off(self, jobs, side):
        (self.work / "tokenizer/ids.json").write_text(damage)
        for file in [*self.work.glob("shard-*.json"), *self.work.glob("look-*.json")]:
            file.write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Preparation, "join_shards", off)
        with pytest.raises(KeyboardInterrupt):
            prepared_data.prepare(labelled())
    assert content(prepared_data.prepare(labelled())) == content(prepared_anew(labelled(), monkeypatch, "undisturbed"))


def test_who_was_taken_over_waits_for_the_other(monkeypatch):
    """The lease is lost in the middle, and the other process has finished the folder by the next check."""
    config, make = recipe(), Preparation.join_shards

    def late(self, jobs, side):
        monkeypatch.setattr(Preparation, "join_shards", make)
        undisturbed = prepared_anew(config, monkeypatch, "undisturbed")
        (self.whole.parent / f".{self.name}.lease-000002").touch()
        shutil.copytree(undisturbed, cache_root.prepared(self.name))
        self.lease.check()

    monkeypatch.setattr(Preparation, "join_shards", late)
    folder = prepared_data.prepare(config)
    assert left() == [folder]


@pytest.fixture
def disk(own, monkeypatch):
    """Mount a small file system for the cache, or change its size."""
    there = own / "disk"
    there.mkdir()

    def size(kib, *options):
        mount = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kib}k", *options]), "none", str(there)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip() if done else 'there is no mount'}")

    size(64)
    monkeypatch.setenv("LAUNCHER_CACHE", str(there / "cache"))
    yield size
    subprocess.run(["umount", str(there)], check=True)


def long_corpus():
    support.corpus(Path(), documents=3000)
    return recipe(data__deduplicate=True, data__validation__fraction=0.1)


def full(config):
    """Return the message about the full disk, or None if there was room."""
    try:
        prepared_data.prepare(config)
    except UserError as error:
        return str(error)
    return None


def test_a_full_disk_is_told_wherever_it_is_met_and_the_same_command_goes_on(disk, monkeypatch):
    monkeypatch.setattr(_files, "PART", 50_000)
    config = long_corpus()
    undisturbed = content(prepared_anew(config, monkeypatch, "undisturbed"))
    told = {}
    for kib in (64, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 4096):
        disk(kib, "remount")
        said = full(config)
        told[kib] = said
        if said is not None:
            assert "is full: about " in said
            assert "(make room there, or set LAUNCHER_CACHE to another disk)" in said
            assert [path.suffix for path in left()] == [".work"]
    enough = min(kib for kib, said in told.items() if said is None)
    assert 64 < enough < 4096
    for said in filter(None, told.values()):
        number, unit = re.search(r"about ([\d.]+) (KiB|MiB) are needed in all", said).groups()
        assert 0.5 * enough < float(number) * {"KiB": 1, "MiB": 1024}[unit] < 2 * enough
    assert left() == [cache_root.prepared(prepared_data.identity(config))]
    assert content(*left()) == undisturbed


def test_a_full_disk_is_the_users_to_mend_and_another_disk_will_do(disk, monkeypatch):
    file = support.write(long_corpus().model_dump(mode="json"))
    disk(256, "remount")
    done = support.launcher("prepare", file, code=2)
    assert "is full: about " in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("LAUNCHER_CACHE", "another-disk")
    support.launcher("prepare", file)
    assert len(left()) == 1


def test_rows_held_out_whose_file_another_has_swept_are_not_taken_for_none(monkeypatch):
    """A process that was suspended and taken over must not leave a shard that looks finished."""
    own, held = shards._own_rows, []

    def swept(job, stats, source, files):
        yield from own(job, stats, source, files)
        held.append(stats.documents["validation"])
        files["validation"].unlink()

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_own_rows", swept)
        with pytest.raises(FileNotFoundError):
            prepared_data.prepare(recipe())
    assert held[0] > 0
    assert not list(cache_root.prepared(f".{prepared_data.identity(recipe())}.work").glob("shard-*.json"))
    assert content(prepared_data.prepare(recipe())) == content(prepared_anew(recipe(), monkeypatch, "undisturbed"))


def test_a_file_that_is_taken_away_while_it_is_prepared_is_told(monkeypatch):
    make = Preparation._make_tokenizer

    def meanwhile(self, jobs):
        make(self, jobs)
        Path("corpus.txt").unlink()

    monkeypatch.setattr(Preparation, "_make_tokenizer", meanwhile)
    assert "corpus.txt: is gone: the source changed while it was being prepared" in mistake(recipe())


def test_a_cache_that_cannot_be_made_is_told(monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("LAUNCHER_CACHE", "file/cache")
    assert "the cache cannot be made" in mistake(recipe())


def test_a_tokenizer_is_trained_from_long_texts_in_pieces(monkeypatch):
    """They are cut at spaces, so the vocabulary is the same."""
    config = recipe(data__train={"kind": "text", "path": "corpus.txt", "document": "file"}, data__validation=None)
    whole = (prepared_data.prepare(config) / "tokenizer" / "tokenizer.json").read_bytes()
    monkeypatch.setattr(preparation, "_MAX_TRAINING_TEXT", 200)
    assert (prepared_anew(config, monkeypatch, "cut") / "tokenizer" / "tokenizer.json").read_bytes() == whole
