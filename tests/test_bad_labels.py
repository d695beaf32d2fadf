"""Labels, numbers and answers that cannot be used: told when they are prepared, with file and line where they have
one."""

import json
import re
from pathlib import Path

import pytest
import support

from launcher.config.errors import UserError
from launcher.prepare import ready

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
        ready.prepare("recipe.yaml", (), most=1)
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
