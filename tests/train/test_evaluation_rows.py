"""Evaluations without padding: the outputs and metrics of padded ones, on any number of ranks, or a reason why not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.unequal_samples import ALONE, CASES, Memory, batches, model, train

from launcher.train import evaluation, evaluation_rows, padding_free
from launcher.train.evaluation import Parts


class Held(Memory):
    """Prepared samples with a size, as of an evaluation."""

    def __len__(self):
        return len(self.tokens)


def parts(task, samples, rank=0, world=1, **more):
    return Parts(samples, task, 3, rank, world, 60, **more)


def prepared(kind, type_, dtype=torch.float64):
    """A task and a model that it has prepared, and the micro-batches of an evaluation."""
    task, training = batches(kind)
    made = model(task, type_, dtype=dtype)
    task.prepare_model(made, training.probe_batches().one.batch)
    return task, made, parts(task, Held())


@pytest.mark.parametrize(("kind", "type_"), CASES)
def test_outputs_and_metrics_are_those_of_padded_rows_on_any_number_of_ranks(kind, type_):
    """In fp64, for each task and architecture with such rows, on 1, 2 and 3 ranks."""
    task, made, padded = prepared(kind, type_)
    expected = evaluation.outputs(made, task, padded, ALONE, "fp64")
    free, notes = evaluation_rows.adapt(made, task, padded, train(), ALONE)
    assert notes == [] and free.padding_free
    assert any("sequences" in part.batch["inputs"] for part in free)
    assert not any("attention_mask" in part.batch["inputs"] for part in free)
    found = evaluation.outputs(made, task, free, ALONE, "fp64")
    assert found.keys() == expected.keys()
    for name in ("loss", "weight"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, atol=1e-12)
    metrics, other = task.metrics(found), task.metrics(expected)
    assert metrics == pytest.approx(other, rel=1e-12)
    for world in (2, 3):
        assert task.metrics(on_ranks(made, task, free, world)) == metrics, "the same bits"


def on_ranks(made, task, whole, world):
    """The outputs on this number of ranks, as all of them get them."""
    shares = []
    for rank in range(world):
        mine = replace(whole, rank=rank, world=world)
        process = Gathering(shares)
        with pytest.raises(Gathered):
            evaluation.outputs(made, task, mine, process, "fp64")
    process = Gathering(shares, give=True)
    return evaluation.outputs(made, task, replace(whole, rank=0, world=world), process, "fp64")


class Gathered(Exception):
    """A share has been kept."""


class Gathering:
    """A process group whose other ranks have computed before."""

    device, leads = torch.device("cpu"), True

    def __init__(self, shares, give=False):
        self.shares, self.give = shares, give

    def all_gather_objects(self, value):
        if self.give:
            return self.shares
        self.shares.append(value)
        raise Gathered


def test_an_evaluation_follows_the_test_of_its_training():
    task, made, padded = prepared("mlm", "bert")
    _, training = batches("mlm")
    free, _, _ = padding_free.adapt(made, task, training, train(), ALONE)
    hooks = len(made._forward_pre_hooks)
    assert evaluation_rows.adapt(made, task, padded, train(), ALONE, free)[0].padding_free
    assert evaluation_rows.adapt(made, task, padded, train(), ALONE, training) == (padded, [])
    assert len(made._forward_pre_hooks) == hooks, "nothing is attached twice"


def test_without_a_kernel_for_dropout_evaluations_alone_have_no_padding(monkeypatch):
    """As on an accelerator, where attention with dropout has no kernel, and attention without it has one."""
    reasons = []

    def without_kernel(model, precision, device, dropout=True):
        reasons.append(dropout)
        return "attention with dropout has no kernel" if dropout else ""

    monkeypatch.setattr(padding_free, "without_kernel", without_kernel)
    monkeypatch.setattr(evaluation_rows, "_tested", lambda model, device: False)
    task, made, padded = prepared("sequence_classification", "bert")
    _, training = batches("sequence_classification")
    rows, _, notes = padding_free.adapt(made, task, training, train(), ALONE)
    assert rows == training and "no kernel" in notes[0]
    assert evaluation_rows.adapt(made, task, padded, train(), ALONE, rows)[0].padding_free
    assert reasons == [True, False]


@pytest.mark.parametrize(
    ("kind", "type_", "what"),
    [
        ("mlm", "fnet", "has other logits in a"),
        ("sequence_classification", "gpt2", "takes no rows without padding"),
    ],
)
def test_a_model_that_does_not_keep_samples_apart_stays_padded_with_a_note(kind, type_, what):
    task, made, padded = prepared(kind, type_)
    made_parts, notes = evaluation_rows.adapt(made, task, padded, train(), ALONE)
    assert made_parts == padded and len(notes) == 1 and what in notes[0]
    assert not made._forward_pre_hooks


def test_a_task_whose_predictions_differ_in_a_row_stays_padded(monkeypatch):
    task, made, padded = prepared("regression", "bert")
    predict = task.predict

    def of_rows(model, batch):
        outputs = predict(model, batch)
        return outputs if "sequences" not in batch["inputs"] else {**outputs, "loss": outputs["loss"].flip(0)}

    monkeypatch.setattr(task, "predict", of_rows)
    _, (note,) = evaluation_rows.adapt(made, task, padded, train(), ALONE)
    assert "regression has other losses in a row without padding" in note
    assert not made._forward_pre_hooks


@pytest.mark.parametrize("keys", [{"padding_free": False}, {"compile": True}])
def test_a_recipe_may_rule_it_out(keys):
    task, made, padded = prepared("regression", "bert")
    assert evaluation_rows.adapt(made, task, padded, train(**keys), ALONE) == (padded, [])


def test_one_very_long_sample_has_a_micro_batch_of_its_own():
    task, made, _ = prepared("sequence_classification", "bert")
    held = Held()
    held.tokens[7] = np.resize(held.tokens[7], 200)
    whole = parts(task, held)
    free, _ = evaluation_rows.adapt(made, task, whole, train(), ALONE)
    assert [piece.tolist() for piece in free.pieces if 7 in piece] == [[7]]
    one, other = (evaluation.outputs(made, task, each, ALONE, "fp64") for each in (whole, free))
    np.testing.assert_allclose(other["logits"], one["logits"], rtol=1e-12, atol=1e-12)


def test_padded_rows_are_as_before_beside_the_hooks():
    task, made, padded = prepared("token_classification", "bert")
    before = evaluation.outputs(made, task, padded, ALONE, "fp64")
    evaluation_rows.adapt(made, task, padded, train(), ALONE)
    assert evaluation.outputs(made, task, padded, ALONE, "fp64")["loss"] == before["loss"]
