"""Metrics from 1, 2 and 3 ranks, to the last digit, and those of scikit-learn and seqeval on the same predictions.

37 validation samples: no number of ranks divides them.
"""

import random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import support
from seqeval import metrics as entities
from sklearn import metrics as known
from support import ranks

from launcher.config import kinds
from launcher.config.tokenizer import TrainTokenizer
from launcher.plan.facts import Facts
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare import tokenizer
from launcher.prepare.encode import Encoder
from launcher.prepare.feature_context import FeatureContext
from launcher.prepare.row_batches import batch_of

COUNT, WORLDS = 37, (1, 2, 3)
TAGS = ["O", "B-LOC", "B-PER", "I-PER"]
TASKS = {
    "single": {"kind": "sequence_classification", "class_weights": "balanced", "label_smoothing": 0.1},
    "multi": {"kind": "sequence_classification", "labels": "multi"},
    "regression": {"kind": "regression"},
    "ner": {"kind": "token_classification"},
    "answers": {"kind": "question_answering", "no_answer": True},
}


def row(draw):
    words = draw.choices(support.WORDS, k=draw.randint(3, 20))
    text, at = " ".join(words), draw.randrange(len(words))
    answers = {"text": [words[at]], "answer_start": [len(" ".join(words[:at])) + (at > 0)]}
    return {
        "text": text, "label": draw.choice("abc"), "words": words, "labels": draw.choices(TAGS, k=len(words)),
        "names": [name for name in "abc" if draw.random() < 0.4], "number": round(draw.gauss(2, 1), 3),
        "question": draw.choice(support.WORDS), "context": text,
        "answers": answers if draw.random() < 0.7 else {"text": [], "answer_start": []},
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank of each world says of each task."""
    draw, folder = random.Random(5), tmp_path_factory.mktemp("exact")
    words = tokenizer.train(TrainTokenizer(vocab_size=120), lambda: [" ".join(support.WORDS)] * 5)
    words.save_pretrained(folder)
    rows, known = [row(draw) for _ in range(COUNT)], {"digest": "", "longest": 16, "tokens": {}, "baseline": {}}
    known |= {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "mask_token_id": None, "samples": {}}
    made = {name: prepared(name, rows, Encoder(folder), {**known, "special_ids": []}) for name in TASKS}
    return [ranks.on_ranks(world, said, made) for world in WORLDS]


def prepared(name, rows, encoder, known):
    """The configuration of a task, its facts, and the samples of the rows as a table."""
    config = kinds.module("tasks", TASKS[name]["kind"]).Config(**TASKS[name])
    task = kinds.of("tasks", config).Task
    renamed = {"multi": "names", "regression": "number"}.get(name, "label")
    asked = [{str(c): one[renamed if c == "label" else c] for c in task.columns if c in one} for one in rows]
    labels = TAGS if name == "ner" else list("abc")
    made = task.features(config, [batch_of(asked)], FeatureContext({"labels": labels}, 16, "data.validation", encoder))
    facts = Facts.model_validate({**known, "labels": labels, "counts": [5, 2, 3]})
    return config, facts, pa.concat_tables([one.table for one in made]).combine_chunks()


def said(process, made):
    import torch

    from launcher.models import config as models
    from launcher.prepare.prepared_samples import PreparedSamples
    from launcher.train import evaluation

    torch.set_num_threads(1)  # threads share a sum in another order
    answers = {}
    for name, (config, facts, table) in made.items():
        torch.manual_seed(3)
        task = kinds.of("tasks", config).Task(config, facts)
        wanted = ModelRequirements(
            task.auto_class, task.model_options(), facts.vocab_size, facts.pad_token_id, facts.longest
        )
        given = models.Config(type="bert", **support.TINY, initializer_range=0.5)  # a new one says the same of all
        model = models.Model(given).build(wanted)[0]
        parts = evaluation.Parts(PreparedSamples.of(table), task, 3, process.rank, process.world, max_tokens=64)
        outputs = evaluation.outputs(model, task, (parts[n] for n in range(len(parts))), process, "fp32")
        answers[name] = task.metrics(outputs), outputs
    return answers


@pytest.mark.parametrize("name", TASKS)
def test_metrics_are_the_same_to_the_last_digit_on_any_number_of_ranks(found, name):
    every = [answers[name][0] for world in found for answers in world]
    assert len(every) == sum(WORLDS)
    assert all(one == every[0] for one in every)


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"answers"}))
def test_every_sample_counts_once(found, name):
    for world in found:
        assert all(len(answers[name][1]["loss"]) == COUNT for answers in world)


def test_single_labels_are_scored_as_by_scikit_learn(found):
    metrics, outputs = found[2][0]["single"]
    truth, said = outputs["label"], [int(one.argmax()) for one in outputs["logits"]]
    assert metrics["accuracy"] == known.accuracy_score(truth, said)
    for name, score in (("precision", known.precision_score), ("recall", known.recall_score), ("f1", known.f1_score)):
        assert metrics[name] == score(truth, said, average="macro", zero_division=0)
        each = score(truth, said, average=None, labels=[0, 1, 2], zero_division=0)
        assert [metrics[f"{name}/{label}"] for label in "abc"] == each.tolist()


def test_several_labels_are_scored_as_by_scikit_learn(found):
    metrics, outputs = found[2][0]["multi"]
    truth, said = np.array(outputs["label"]), np.array(outputs["logits"]) > 0
    assert metrics["accuracy"] == known.accuracy_score(truth, said)
    for name, score in (("precision", known.precision_score), ("recall", known.recall_score), ("f1", known.f1_score)):
        assert metrics[name] == score(truth, said, average="macro", zero_division=0)
        assert metrics[f"micro_{name}"] == score(truth, said, average="micro", zero_division=0)


def test_numbers_are_scored_as_by_scikit_learn(found):
    metrics, outputs = found[2][0]["regression"]
    pair = outputs["label"], outputs["value"]
    assert metrics["mse"] == known.mean_squared_error(*pair)
    assert metrics["mae"] == known.mean_absolute_error(*pair)
    assert metrics["r2"] == known.r2_score(*pair)
    assert metrics["pearson"] == pytest.approx(np.corrcoef(*pair)[0, 1], rel=1e-12)


def test_entities_are_scored_as_by_seqeval(found):
    metrics, outputs = found[2][0]["ner"]
    truth, said = [], []
    for label, answer, words, whole in zip(*(outputs[n] for n in ("label", "found", "word", "row_label")), strict=True):
        missed = dict.fromkeys(range(len(whole)), 0) | dict(zip(words.tolist(), answer.tolist(), strict=True))
        truth.append([TAGS[n] for n in (whole if len(whole) else label)])
        said.append([TAGS[missed[n]] for n in sorted(missed)])
    assert any(map(len, outputs["row_label"]))  # some rows are cut
    for name, score in (
        ("precision", entities.precision_score),
        ("recall", entities.recall_score),
        ("f1", entities.f1_score),
    ):
        assert metrics[name] == score(truth, said)
        assert [metrics[f"{name}/{kind}"] for kind in ("LOC", "PER")] == list(score(truth, said, average=None))
    assert metrics["accuracy"] == entities.accuracy_score(truth, said)


def test_metrics_are_numbers_by_the_names_that_have_a_direction(found):
    for name, (metrics, _) in found[0][0].items():
        task = kinds.module("tasks", TASKS[name]["kind"]).Task
        config = kinds.module("tasks", TASKS[name]["kind"]).Config(**TASKS[name])
        directions = task(config, SimpleNamespace(labels=TAGS)).directions()
        assert {key for key in metrics if "/" not in key} == set(directions), name
