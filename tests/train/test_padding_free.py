"""Rows without padding: the same losses, gradients and digests as padded ones, or a reason why not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.unequal_samples import ALONE, CASES, FACTS, MODULES, Memory, batches, model, train

from launcher.config.errors import UserError
from launcher.tasks import _token_batches, sequence_classification
from launcher.train import padding_free, randomness_probe


def adapt(model, task, batches, keys):
    """Adapt the model and its batches, and let it draw from torch's generator as before."""
    rows, drawn, notes = padding_free.adapt(model, task, batches, keys, ALONE)
    if drawn is not None:
        release(drawn, model)
    return rows, notes


def release(drawn, model):
    for name in [*drawn.modules]:
        drawn.release(name, model.get_submodule(name))


def walk(model, task, batches, precision="fp64", drawn=None):
    """The loss, the gradient and the digest of the first step, and whether rows had no padding."""
    probes = batches.probe_batches()
    randomness = drawn or randomness_probe.take_over(model, lambda b: task.loss(model, b)[0], probes, precision)
    assert randomness.unreproducible == []
    batch, total = batches[0], 0.0
    model.zero_grad()
    for micro, rows in zip(batch.micro_batches, batch.rows, strict=True):
        with randomness.drawing(rows):
            loss = task.loss(model, micro)[0]
            loss.backward()
        total += float(loss.detach())
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    release(randomness, model)
    return total, gradient, batch


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "type_"), CASES)
def test_losses_and_gradients_are_those_of_padded_rows(kind, type_, rate):
    task, padded = batches(kind)
    made = model(task, type_, rate)
    task.prepare_model(made, padded.probe_batches().one.batch)
    loss, gradient, before = walk(made, task, padded)
    free, drawn, notes = padding_free.adapt(made, task, padded, train(), ALONE)
    assert notes == [] and free.padding_free
    found, other, after = walk(made, task, free, drawn=drawn)
    assert any("sequences" in micro["inputs"] for micro in after.micro_batches)
    assert after.digest == before.digest and after.weight == before.weight
    assert after.padded == after.tokens < before.padded
    assert found == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(other, gradient, rtol=1e-8, atol=1e-9)
    assert walk(made, task, padded)[0] == loss, "padded rows are computed as before"


@pytest.mark.parametrize("type_", ["bert", "roberta", "modernbert", "distilbert"])
def test_in_fp32_losses_agree_within_1e_5(type_):
    task, padded = batches("sequence_classification")
    made = model(task, type_, dtype=torch.float32)
    loss = walk(made, task, padded, "fp32")[0]
    free, _ = adapt(made, task, padded, train(precision="fp32"))
    assert walk(made, task, free, "fp32")[0] == pytest.approx(loss, rel=1e-5)


def test_a_recomputed_layer_attends_to_the_same_sequences():
    from launcher.train import compile_and_recompute
    from launcher.train.sample_randomness import ModelRandomness

    task, padded = batches("sequence_classification")
    made = model(task, "bert", 0.0)
    free, _ = adapt(made, task, padded, train())
    gradient = walk(made, task, free)[1]
    keys = train(activation_checkpointing="layers")
    compile_and_recompute.apply(made.bert.encoder.layer, keys, ModelRandomness())
    assert torch.equal(walk(made, task, free)[1], gradient)


@pytest.mark.parametrize(
    ("kind", "type_", "what"),
    [
        ("mlm", "fnet", "has other logits in a row without padding"),
        ("mlm", "deberta-v2", "has other logits in a row without padding"),
        ("sequence_classification", "gpt2", "takes no rows without padding: index"),
    ],
)
def test_a_model_that_does_not_keep_samples_apart_stays_padded(kind, type_, what):
    task, padded = batches(kind)
    made = model(task, type_)
    free, notes = adapt(made, task, padded, train())
    assert free == padded and len(notes) == 1 and what in notes[0]
    assert made.config._attn_implementation in ("sdpa", "eager")
    assert not made._forward_pre_hooks
    with pytest.raises(UserError, match=r"train.padding_free: .*\(take auto\)"):
        padding_free.adapt(made, task, padded, train(padding_free=True), ALONE)


@pytest.mark.parametrize(
    ("precision", "rate", "what"),
    [
        ("bf16", 0.1, "attention with dropout (attention_probs_dropout_prob 0.1) has no kernel for sequences on cuda"),
        ("fp32", 0.0, "attention has no kernel for sequences in fp32 on cuda here"),
        ("bf16", 0.0, ""),
    ],
)
def test_on_a_gpu_attention_needs_a_kernel_for_all_lengths(monkeypatch, precision, rate, what):
    """Length by length it would be thousands of kernels, which take longer than padding."""
    in_half = {torch.bfloat16: abs}.get
    monkeypatch.setattr(padding_free._sequence_attention, "fused", lambda device, dtype, width: in_half(dtype))
    task, padded = batches("sequence_classification")
    made, gpu = model(task, "bert", rate), torch.device("cuda", 0)
    assert padding_free.without_kernel(made, precision, torch.device("cpu")) == ""
    assert padding_free.without_kernel(made, precision, gpu) == what
    if what:
        on_gpu = replace(ALONE, device=gpu)
        free, _, notes = padding_free.adapt(made, task, padded, train(precision=precision), on_gpu)
        assert free is padded and notes == [f"samples of different lengths are padded: {what}"]
        assert not made._forward_pre_hooks
        packed = replace(padded, row=24)
        assert padding_free.adapt(made, task, packed, train(precision=precision), on_gpu) == (packed, None, [])


def test_tf32_may_round_more_than_fp32(monkeypatch):
    kinds = []
    monkeypatch.setattr(padding_free, "autocast", lambda kind, device: kinds.append(kind) or torch.autocast("cpu"))
    ids = SimpleNamespace(device=torch.device("cuda", 0))
    for precision in ("tf32", "fp32"):
        padding_free._difference(torch.nn.Linear(1, 1), {"inputs": {"input_ids": ids}}, {}, precision)
    assert kinds == ["tf32", "fp32"]
    assert padding_free.TOLERANCE["tf32"] > 2**-10 > padding_free.TOLERANCE["fp32"]


def test_a_model_that_is_none_of_transformers_stays_padded():
    task, padded = batches("sequence_classification")
    _, notes = adapt(torch.nn.Linear(1, 1), task, padded, train())
    assert notes == ["samples of different lengths are padded: Linear is no model of transformers"]


def test_a_task_with_a_collate_of_its_own_needs_its_own_concatenate():
    class Own(sequence_classification.Task):
        def collate(self, samples):
            return super().collate(samples) | {"extra": np.zeros(len(samples))}

    own, padded = Own(sequence_classification.Config(), FACTS), batches("sequence_classification")[1]
    free, notes = adapt(model(own, "bert"), own, replace(padded, task=own), train())
    assert not free.padding_free and "has a collate, but no concatenate" in notes[0]


def test_a_task_whose_loss_reads_a_padding_mask_stays_padded():
    class Own(sequence_classification.Task):
        def loss(self, model, batch):
            padded = batch["inputs"]["input_ids"].shape[1] > FACTS.longest and batch["inputs"]["attention_mask"]
            return super().loss(model, batch)[0] * (1 if padded is False else padded.sum()), 1.0

    own, padded = Own(sequence_classification.Config(), FACTS), batches("sequence_classification")[1]
    free, notes = adapt(model(own, "bert"), own, replace(padded, task=own), train())
    assert not free.padding_free and "takes no rows without padding: 'attention_mask'" in notes[0]


@pytest.mark.parametrize(
    ("keys", "more"),
    [({"padding_free": False}, {}), ({"compile": True}, {"row": 24}), ({}, {"equal_lengths": True})],
)
def test_without_a_need_nothing_is_tried(keys, more):
    task, padded = batches("mlm")
    padded = replace(padded, **more)
    assert padding_free.adapt(torch.nn.Linear(1, 1), task, padded, train(**keys), ALONE) == (padded, None, [])


@pytest.mark.parametrize("kind", ["mlm", "causal_lm"])
def test_packed_rows_need_no_mask_then(kind):
    type_ = "gpt2" if kind == "causal_lm" else "modernbert"
    task, padded = batches(kind, samples="packed")
    packed, made = replace(padded, row=24), model(task, type_)
    task.prepare_model(made, packed.probe_batches().one.batch)
    loss, gradient, before = walk(made, task, packed)
    assert "documents" in before.micro_batches[0]
    free, notes = adapt(made, task, packed, train())
    found, other, after = walk(made, task, free)
    assert notes == [] and not any("documents" in micro for micro in after.micro_batches)
    assert after.digest == before.digest and after.padded == after.tokens
    assert found == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(other, gradient, rtol=1e-8, atol=1e-9)


def test_packed_rows_keep_their_masks_where_a_model_needs_them():
    task, padded = batches("mlm", samples="packed")
    packed = replace(padded, row=24)
    assert padding_free.adapt(model(task, "deberta-v2"), task, packed, train(), ALONE) == (packed, None, [])


@pytest.mark.parametrize(("kind", "type_"), CASES)
def test_predictions_are_those_of_padded_rows(kind, type_):
    task, padded = batches(kind)
    made = model(task, type_)
    free, _ = adapt(made, task, padded, train())
    made.eval()
    with torch.no_grad():
        one, other = (task.predict(made, each.probe_batches().together.batch) for each in (padded, free))
    assert one.keys() == other.keys()
    for name in ("loss", "weight"):
        torch.testing.assert_close(other[name], one[name], rtol=1e-9, atol=1e-12)


def test_samples_of_one_length_are_passed_as_before():
    _, padded = batches("mlm")
    longest = max(len(tokens) for tokens in padded.samples.tokens)
    memory = Memory()
    memory.tokens = [np.resize(tokens, longest) for tokens in memory.tokens]
    padded = replace(padded, samples=memory)
    before, after = padded[0], replace(padded, padding_free=True)[0]
    assert after.padded == before.padded
    for one, other in zip(before.micro_batches, after.micro_batches, strict=True):
        assert one["inputs"].keys() == other["inputs"].keys() == {"input_ids"}
        assert torch.equal(one["inputs"]["input_ids"], other["inputs"]["input_ids"])
    assert all(rows.sequences is None and rows.positions is None for rows in after.rows)


@pytest.mark.parametrize("kind", [kind for kind in MODULES if kind != "regression"])
def test_padded_lengths_are_multiples_and_change_no_loss(kind):
    """Of 8 here, with the longest sample (24) as the most; the budget counts the padding."""
    task, padded = batches(kind)
    expected, gradient, before = walk(model(task, "bert" if kind != "causal_lm" else "gpt2"), task, padded)
    task.length_multiple = 8
    found, other, after = walk(model(task, "bert" if kind != "causal_lm" else "gpt2"), task, padded)
    assert after.digest == before.digest
    assert found == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(other, gradient, rtol=1e-9, atol=1e-12)
    shapes = [tuple(batch["inputs"]["input_ids"].shape) for batch in after.micro_batches]
    masked = ["attention_mask" in batch["inputs"] for batch in after.micro_batches]
    assert any(masked) and all(width % 8 == 0 for (_, width), mask in zip(shapes, masked, strict=True) if mask)
    assert all(rows * width <= 100 for rows, width in shapes)
    assert after.padded == sum(rows * width for rows, width in shapes)


def test_lengths_are_rounded_up_to_the_longest_sample_at_most():
    lengths = np.array([3, 8, 9, 21, 24])
    assert _token_batches.padded_lengths(lengths, 8, 22).tolist() == [8, 8, 16, 22, 24]
    assert _token_batches.padded_length(lengths[:3], 8, 24) == 16
    assert _token_batches.padded_length(lengths[2:3], 8, 24) == 9
