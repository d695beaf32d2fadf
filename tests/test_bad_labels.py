"""Labels, numbers and answers that cannot be used: told when they are prepared, with file and line where they have
one."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.prepare import run_setup
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.tasks import IGNORE

OR_SKIP = " (or data.train.on_bad_row: skip, to leave such rows out)"
WORDS = {"words": ["the", "node"], "labels": ["O", "B-X"]}
ASKED = {"question": "what waits", "context": "the node waits", "answers": {"text": ["node"], "answer_start": [4]}}


def told(task, good, bad, held=None, **changes):
    """What is said of a recipe whose training rows are `good` ones and then a bad one, or of a bad one held out."""
    rows("train.jsonl", [*good, *([bad] if bad else [])])
    source = {"kind": "jsonl", "path": "train.jsonl"}
    data = {"train": source, "validation": {"fraction": 0.5}, "max_length": changes.pop("max_length", 32)}
    if held is not None:
        rows("held.jsonl", held)
        data["validation"] = {**source, "path": "held.jsonl"}
    support.write(support.mlm(task={**task, **changes}, data=data))
    with pytest.raises(UserError) as error:
        run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    return re.sub(r"^recipe\.yaml:\d+: ", "", str(error.value))


def rows(file, some):
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")


def texts(*labels):
    return [{"text": f"the node {n}", "label": label} for n, label in enumerate(labels)]


CLASSES, NUMBERS = {"kind": "sequence_classification"}, {"kind": "regression"}
TAGS, ANSWERS = {"kind": "token_classification"}, {"kind": "question_answering"}


@pytest.mark.parametrize(
    ("task", "good", "bad", "what"),
    [
        (CLASSES, texts("a", "b"), {"text": "x", "label": 0.5},
         "data.train.label: column 'label' is 0.5: a label is a name or a whole number"),
        (NUMBERS, texts(1, 2.5), {"text": "x", "label": "high"},
         "data.train.label: column 'label' is 'high': should be a number"),
        ({**CLASSES, "labels": "multi"}, texts(["a"], ["b"]), {"text": "x", "label": "a"},
         "data.train.label: column 'label' is no list but str"),
        (TAGS, [WORDS, WORDS], {"words": ["a", "b", "c"], "labels": ["O"]},
         "data.train: 3 words and 1 labels: one for each is needed"),
        (ANSWERS, [ASKED, ASKED], {**ASKED, "answers": {"text": ["node"], "answer_start": [5]}},
         "data.train: answer 'node' does not stand at character 5 of the context"),
    ],
    ids=["half a class", "no number", "no list", "words without labels", "answer elsewhere"],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_told_with_its_line(workspace, task, good, bad, what):
    assert told(task, good, bad) == f"train.jsonl:3: {what}{OR_SKIP}"


MULTI = {**CLASSES, "labels": "multi"}
EMPTY, NO_LABEL = "column 'label' is empty", "which marks a row without a label: leave it out"
FLAGS = "a 0 or 1 for each class, not a list of labels (list the classes of the row instead: [1, 2])"


@pytest.mark.parametrize(
    ("task", "label", "what"),
    [
        (CLASSES, "", EMPTY),
        (CLASSES, " \t", EMPTY),
        (CLASSES, None, EMPTY),
        (CLASSES, -100, f"column 'label' is -100, {NO_LABEL}"),
        (CLASSES, "-100", f"column 'label' is '-100', {NO_LABEL}"),
        (CLASSES, [0, 1, 1], "column 'label' is [0, 1, 1]: a label is a name or a whole number (several in a row: "
                             "task.labels: multi)"),
        (MULTI, ["a", ""], EMPTY),
        (MULTI, ["a", None], EMPTY),
        (MULTI, [0, -100], f"column 'label' is -100, {NO_LABEL}"),
        (MULTI, [0, 1, 1], f"column 'label' is [0, 1, 1]: {FLAGS}"),
        (MULTI, [0.0, 1.0, 1.0], f"column 'label' is [0.0, 1.0, 1.0]: {FLAGS}"),
        (MULTI, [False, True, True], f"column 'label' is [False, True, True]: {FLAGS}"),
        (MULTI, ["0", "1", "1"], f"column 'label' is ['0', '1', '1']: {FLAGS}"),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_label_that_is_none_is_refused_with_its_row(workspace, kind, task, label, what):
    """Parquet has one type for a column: the good rows are of the bad one's."""
    same = {type(None): ["a"], str: ["a"], int: [3], list: [[]]}[type(label)]
    good = texts(*same * 2)
    bad = {"text": "x", "label": label}
    source, where = {"kind": kind, "path": f"train.{kind}"}, "train.jsonl:1"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([bad, *good]), "train.parquet")
        where = "train.parquet row 1"
    else:
        rows("train.jsonl", [bad, *good])
    support.write(support.mlm(task=task, data={"train": source, "validation": {"fraction": 0.5}, "max_length": 16}))
    with pytest.raises(UserError) as error:
        run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    assert str(error.value) == f"{where}: data.train.label: {what}{OR_SKIP}"


@pytest.mark.parametrize(
    ("label", "what"), [("", EMPTY), ("  ", EMPTY), ("-100", f"column 'label' is '-100', {NO_LABEL}")]
)
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_label_that_is_none_is_refused_in_a_table(workspace, ending, delimiter, label, what):
    Path(f"train.{ending}").write_text(f"text{delimiter}label\nx y{delimiter}a\nz{delimiter}{label}\n")
    source = {"kind": "csv", "path": f"train.{ending}", "delimiter": delimiter}
    support.write(support.mlm(task=CLASSES, data={"train": source, "validation": {"fraction": 0.5}}))
    with pytest.raises(UserError) as error:
        run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    assert str(error.value) == f"train.{ending}:3: data.train.label: {what}{OR_SKIP}"


@pytest.mark.parametrize("tag", ["", None, " "])
def test_a_tag_that_is_none_is_refused_with_its_word(workspace, tag):
    bad = {"words": ["a", "b"], "labels": ["O", tag]}
    what = "data.train.labels: column 'labels' is empty (label 2)"
    assert told(TAGS, [WORDS, WORDS], bad) == f"train.jsonl:3: {what}{OR_SKIP}"


TWO_WAYS = [
    (["pos", "neg", "pos "], "'pos' and 'pos ' are two labels here, and differ only by white space"),
    (["a b", "neg", "a  b"], "'a  b' and 'a b' are two labels here, and differ only by white space"),
    (["1", "0", True], "'1' and 'True' are two labels here, and mean the same"),
    (["true", "no", True], "'True' and 'true' are two labels here, and mean the same"),
    (["1", "2", "1.0"], "'1' and '1.0' are two labels here, and mean the same"),
]


@pytest.mark.parametrize(
    ("task", "key", "labels", "what"),
    [
        (task, key, labels, what)
        for task, key in ((CLASSES, "label"), (MULTI, "label"), (TAGS, "labels"))
        for labels, what in TWO_WAYS
        if task is not MULTI or True not in labels  # a list that holds true is refused by itself
    ],
)
def test_one_label_written_in_two_ways_is_refused(workspace, task, key, labels, what):
    some = {
        "label": texts(*([[one] for one in labels] if task is MULTI else labels)),
        "labels": [{"words": ["w"] * len(labels), "labels": labels}],
    }[key]
    assert told(task, some, None, [WORDS] if task is TAGS else some) == f"data.train.{key}: {what} (write them alike)"


def test_two_classes_as_zeros_and_ones_are_refused_by_their_counts(workspace):
    some = texts([0, 1], [1, 0], [0, 1])
    found = told(MULTI, some, None, some)
    assert found.startswith("data.train.label: every row has all 2 labels (lists of 0 and 1, one for each class")


@pytest.mark.parametrize("mark", [-100, -100.0, "-100"])
def test_a_word_marked_by_minus_100_is_excluded(workspace, mark):
    some = [{"words": ["the", "node", "waits"], "labels": [mark, 0, 1]}] * 2
    rows("train.jsonl", some)
    source = {"kind": "jsonl", "path": "train.jsonl"}
    support.write(support.mlm(task=TAGS, data={"train": source, "validation": source, "max_length": 16}))
    folder, facts = run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    assert facts.labels == ["0", "1"]
    (first, *_) = PreparedSamples(folder, "train").rows([0])
    assert first["labels"][first["words"] >= 0].tolist() == [IGNORE, 0, 1]


def test_labels_of_an_earlier_version_that_are_none_are_refused(workspace):
    rows("train.jsonl", [{"words": ["a", "b"], "labels": ["O", "X"]}] * 2)
    source = {"kind": "jsonl", "path": "train.jsonl"}
    support.write(support.mlm(task=TAGS, data={"train": source, "validation": source, "max_length": 16}))
    folder, facts = run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    old = facts.model_copy(update={"labels": ["O", "-100"]})
    (folder / "facts.json").write_text(old.model_dump_json())
    with pytest.raises(UserError, match=r"labels: the data in .* was prepared with a class '-100', which is no label"):
        run_setup.prepare(load.recipe("recipe.yaml"), processes=1)


def test_a_label_of_the_validation_side_that_training_never_had(workspace):
    held = texts("a", "spot")
    what = "'spot' stands in the validation data and not in the training data"
    assert told(CLASSES, texts("a", "sport"), None, held) == f"data.validation.label: {what} (did you mean sport?)"
    several = {**CLASSES, "labels": "multi"}
    held = texts(["a", "spot"])
    found = told(several, texts(["a"], ["a", "sport"]), None, held)
    assert found == f"data.validation.label: {what} (did you mean sport?)"


def test_a_tag_of_the_validation_side_that_training_never_had(workspace):
    what = "data.validation.labels: 'I-X' stands in the validation data and not in the training data"
    held = [{"words": ["the"], "labels": ["I-X"]}]
    assert told(TAGS, [WORDS], None, held).startswith(what)


@pytest.mark.parametrize(
    ("task", "some", "key"),
    [
        (CLASSES, texts("a", "a"), "label"),
        ({**CLASSES, "labels": "multi"}, texts(["a"], []), "label"),
        (TAGS, [{"words": ["the"], "labels": ["O"]}], "labels"),
    ],
)
def test_one_class_only(workspace, task, some, key):
    what = "1 label in the training data: a classifier needs two or more"
    assert told(task, some, None, some) == f"data.train.{key}: {what}"


def test_weights_of_labels_that_are_none(workspace):
    some = texts("a", "sport")
    found = told(CLASSES, some, None, some, class_weights={"spot": 2.0})
    assert found == "task.class_weights.spot: no such label (did you mean sport?)"


def test_a_stride_that_is_too_large_for_the_window_beside_the_question(workspace):
    some = [{**ASKED, "question": "the node waits " * 9, "context": ASKED["context"] + " a step" * 30}]
    assert told(ANSWERS, some, None, some, stride=8, max_length=16) == (
        "task.stride: 8 of 16 tokens: a question of 6 tokens leaves 7 for a window of its context (or raise "
        "data.max_length)"
    )
