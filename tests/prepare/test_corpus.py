"""From sources to a prepared folder that is named by its content."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import facts
from launcher.prepare import cache, corpus, tokenizer
from launcher.prepare.samples import Samples

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
    samples = Samples(folder, side)
    rows = samples.rows(range(len(samples)))
    return [words.decode(row["input_ids"].tolist(), skip_special_tokens=True) for row in rows]


def left():
    """What is in the cache beside locks nobody holds."""
    root = cache.path("x").parent
    return [p for p in root.iterdir() if p.suffix != ".lock"] if root.is_dir() else []


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
    ],
    ids=str,
)
def test_what_is_no_content_does_not_change_the_name(changes):
    assert corpus.identity(recipe(**changes)) == corpus.identity(recipe())


def test_where_the_content_stands_does_not_change_the_name(own):
    before = corpus.identity(recipe())
    (own / "elsewhere").mkdir()
    Path("corpus.txt").rename("elsewhere/renamed.txt")
    for path in ("elsewhere/renamed.txt", str(own / "elsewhere" / "*.txt"), ["elsewhere/renamed.txt"]):
        assert corpus.identity(recipe(data__train__path=path)) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer__vocab_size": 121},
        {"tokenizer__algorithm": "bpe"},
        {"tokenizer__lowercase": False},
        {"data__max_length": 31},
        {"data__train__document": "paragraph"},
        {"data__train__limit": 50},
        {"data__validation__fraction": 0.2},
        {"data__validation": None},
        {"data__validation": {"kind": "text", "path": "corpus.txt"}},
        {"task__samples": "chunks"},
        {"task": {"kind": "sequence_classification"}},
    ],
    ids=str,
)
def test_what_decides_the_samples_changes_the_name(changes):
    assert corpus.identity(recipe(**changes)) != corpus.identity(recipe())


def test_another_text_changes_the_name_and_the_old_one_brings_it_back():
    text, found = Path("corpus.txt").read_bytes(), []
    for content in (text, text + b"one more\n", text.replace(b"the", b"teh", 1), text):
        Path("corpus.txt").write_bytes(content)
        found.append(corpus.identity(recipe()))
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_another_validation_text_changes_the_name():
    own = {"kind": "text", "path": "validation.txt"}
    found = set()
    for text in ("one", "two", "one"):
        Path("validation.txt").write_text(text, encoding="utf-8")
        found.add(corpus.identity(recipe(data__validation=own)))
    assert len(found) == 2


def test_all_that_cannot_be_found_is_told_at_once():
    missing = {
        "data__train__path": "no.txt",
        "data__validation": {"kind": "text", "path": "none.txt"},
        "tokenizer": None,
    }
    with pytest.raises(UserError) as told:
        corpus.identity(recipe(**missing))
    keys = ["data.train.path", "data.validation.path", "tokenizer"]
    assert [problem.key for problem in told.value.problems] == keys


# The split


@properties
@given(texts, texts, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_row_stays_where_it_is_when_more_is_held_out(text, label, one, other):
    row = {"text": text, "label": label}
    if corpus.held_out(row, min(one, other)):
        assert corpus.held_out(row, max(one, other))


@properties
@given(texts, texts, texts, st.floats(0.01, 0.99))
def test_equal_texts_are_held_out_together_whatever_their_labels(text, one, other, fraction):
    sides = {corpus.held_out({"text": text, "label": label}, fraction) for label in (one, other)}
    assert len(sides) == 1


def test_as_many_rows_are_held_out_as_was_asked_for():
    for fraction in (0.02, 0.15, 0.5):
        held = sum(corpus.held_out({"text": f"document {n}"}, fraction) for n in range(10_000))
        assert abs(held / 10_000 - fraction) < 4 * (fraction * (1 - fraction) / 10_000) ** 0.5


def test_pairs_are_held_out_by_both_of_their_texts():
    sides = {corpus.held_out({"text": "same", "text_pair": str(n)}, 0.5) for n in range(50)}
    assert sides == {True, False}
    assert corpus.held_out({"text": "a", "text_pair": "b"}, 0.5) in sides


def test_the_sides_hold_the_rows_that_belong_there_in_the_order_of_the_source():
    folder = corpus.prepare(recipe(data__max_length=200))
    held = [corpus.held_out({"text": line}, 0.15) for line in lines()]
    assert decoded(folder, "train") == [x for x, out in zip(lines(), held, strict=True) if not out]
    assert decoded(folder, "validation") == [x for x, out in zip(lines(), held, strict=True) if out]


def test_adding_data_moves_nobody_to_the_other_side():
    before = corpus.prepare(recipe(data__max_length=200))
    with Path("corpus.txt").open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in [*lines()[:40], *reversed(lines()[40:80])])
    after = corpus.prepare(recipe(data__max_length=200))
    assert before != after
    for side in ("train", "validation"):
        assert set(decoded(before, side)) == set(decoded(after, side))
        assert len(decoded(before, side)) < len(decoded(after, side))


# What is in it


def test_the_facts_are_those_of_the_samples():
    folder = corpus.prepare(recipe())
    known = facts.read(folder)
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    assert known.digest == folder.name == corpus.identity(recipe())
    assert known.vocab_size == len(words) == 120
    assert known.special_ids == sorted(words.all_special_ids)
    assert (known.pad_token_id, known.mask_token_id) == (words.pad_token_id, words.mask_token_id)
    longest = 0
    for side in ("train", "validation"):
        samples = Samples(folder, side)
        lengths = samples.lengths(range(len(samples)))
        assert known.samples[side] == len(samples)
        assert known.tokens[side] == lengths.sum()
        longest = max(longest, lengths.max())
    assert known.longest == longest
    assert sum(known.samples.values()) == len(lines())


def test_nothing_else_is_left_in_the_folder():
    names = {path.name for path in corpus.prepare(recipe()).iterdir()}
    assert names == {"tokenizer", "train.arrow", "validation.arrow", "facts.json"}


def test_what_is_prepared_again_is_the_same_to_the_byte(monkeypatch):
    made = []
    for place in ("one", "other"):
        monkeypatch.setenv("LAUNCHER_CACHE", place)
        made.append(list(support.tree(corpus.prepare(recipe())).values()))
    assert made[0] == made[1]


def test_what_is_prepared_is_not_made_again():
    folder = corpus.prepare(recipe())
    changed = folder.stat().st_mtime_ns
    assert corpus.prepare(recipe()) == folder
    assert folder.stat().st_mtime_ns == changed


def test_more_rows_than_one_batch_holds_are_all_there_in_order():
    written = [f"the {n}th document has some words" for n in range(2300)]
    Path("corpus.txt").write_text("\n".join(written), encoding="utf-8")
    folder = corpus.prepare(recipe(data__validation=None, tokenizer__vocab_size=400))
    assert decoded(folder, "train") == written


def test_a_side_without_validation_has_no_baseline():
    known = facts.read(corpus.prepare(recipe(data__validation=None)))
    assert known.baseline == {}
    assert list(known.samples) == ["train"]


def test_the_tokenizer_has_not_seen_the_validation_side():
    Path("validation.txt").write_text("zq zq zq zq", encoding="utf-8")
    folder = corpus.prepare(recipe(data__validation={"kind": "text", "path": "validation.txt"}))
    words = tokenizer.load(str(folder / "tokenizer"), "tokenizer")
    assert not {"z", "q", "##q"} & set(words.get_vocab())
    assert decoded(folder, "validation") == [""]


def test_the_tokenizer_has_seen_both_texts_of_a_pair():
    rows = [{"text": "first", "text_pair": "second", "label": n % 2} for n in range(6)]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = corpus.prepare(labelled(data__train__text_pair="text_pair", data__validation=None))
    assert decoded(made, "train") == ["first second"] * 6


def test_labels_may_be_numbers_and_keep_their_order():
    rows = [{"text": f"document {n}", "label": n % 12} for n in range(60)]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = corpus.prepare(labelled(data__validation=None))
    assert facts.read(folder).labels == [str(n) for n in range(12)]
    assert [row["label"] for row in Samples(folder, "train").rows(range(60))] == [n % 12 for n in range(60)]


def test_a_pretrained_tokenizer_is_used_as_it_is(own):
    first = corpus.prepare(recipe())
    name = str(first / "tokenizer")
    folder = corpus.prepare(recipe(tokenizer={"kind": "pretrained", "name": name}))
    assert folder != first
    for side in ("train", "validation"):
        one, other = ([row["input_ids"] for row in Samples(f, side).rows(range(9))] for f in (first, folder))
        assert all(map(np.array_equal, one, other))


# Mistakes


def mistake(config):
    with pytest.raises(UserError) as told:
        corpus.prepare(config)
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
    first = corpus.prepare(recipe())
    words = tokenizer.load(str(first / "tokenizer"), "tokenizer")
    words.mask_token = None
    words.save_pretrained(own / "maskless")
    with pytest.raises(UserError, match=r"^tokenizer: has no mask token"):
        corpus.prepare(recipe(tokenizer={"kind": "pretrained", "name": str(own / "maskless")}))
    assert left() == [first]


# Several processes

COUNTED = """
import os
from pathlib import Path
from launcher.data._source import SourceConfig

class Config(SourceConfig):
    kind: str = "counted.source"

def fingerprint(config, key):
    return "always the same"

def rows(config, columns, key):
    with Path("reads").open("a") as out:
        out.write(f"{os.getpid()}\\n")
    for n in range(50):
        yield {"text": f"document {n} of fifty"}
"""


def test_three_commands_at_once_on_an_empty_cache_read_the_source_once(own):
    (own / "counted").mkdir()
    (own / "counted" / "source.py").write_text(COUNTED, encoding="utf-8")
    support.write(support.mlm(data__train={"kind": "counted.source"}))
    command = support.command("prepare", "recipe.yaml")
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=240)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(told) == 1
    assert len(Path("reads").read_text().split()) == 1
    (folder,) = left()
    assert folder.name in told.pop()
