"""The head on the masked positions alone: for every architecture what the dense one gives, or not used at all."""

import numpy as np
import pytest
import support
import torch
from torch.nn.functional import cross_entropy

from launcher.models import config
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import IGNORE, _masked_head, mlm
from launcher.train.data_loader import tensors

WIDTHS = {key: support.TINY[key] for key in support.TINY if key != "dropout"}
HALF = {"embedding_size": 8}
ARCHITECTURES = {
    "bert": WIDTHS,
    "roberta": WIDTHS,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": WIDTHS,
    "electra": {**WIDTHS, **HALF},
    "albert": {**WIDTHS, **HALF},
    "deberta-v2": WIDTHS,
    "mpnet": WIDTHS,
    "xlm-roberta": WIDTHS,
    "camembert": WIDTHS,
    "esm": WIDTHS,
    "fnet": {key: WIDTHS[key] for key in WIDTHS if key != "num_attention_heads"},
    "convbert": {**WIDTHS, "embedding_size": 16},
    "roformer": {**WIDTHS, "embedding_size": 16},
    "longformer": {**WIDTHS, "attention_window": 8},
    "big_bird": WIDTHS,
    "funnel": {
        "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32,
    },
    "yoso": WIDTHS,
    "nomic_bert": WIDTHS,
}  # fmt: skip
SINGLE = {"longformer"}  # its own gradients in fp64 are not the same twice: its softmax is one of fp32
NOTES = {"esm": ["EsmForMaskedLM: the loss needs all logits at once (they are no linear layer's output)"]}
"""Notes of an architecture that adds a bias of its own to the output of its last linear layer."""
VOCABULARY, PADDING = 50, 1


@pytest.fixture(scope="module")
def task_of(facts_of):
    known = facts_of(vocab_size=VOCABULARY, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], pad_token_id=PADDING)
    return lambda: mlm.Task(mlm.Config(), known)


def sample(draw, length, masked):
    tokens = draw.integers(5, VOCABULARY, length)
    labels = np.full(length, IGNORE)
    places = draw.choice(length, masked, replace=False)
    labels[places], tokens[places] = tokens[places], 4
    return {"input_ids": tokens, "labels": labels}


@pytest.fixture(scope="module")
def samples():
    draw = np.random.default_rng(2)
    return [sample(draw, length, masked) for length, masked in ((12, 3), (7, 1), (12, 0), (5, 2))]


def model_of(kind, double=True):
    """A tiny random model whose logits differ clearly from one another."""
    torch.manual_seed(0)
    widths = {**ARCHITECTURES[kind], "initializer_range": 0.3}
    made = config.Model(config.Config(type=kind, dropout=0.0, **widths)).build(
        ModelRequirements("AutoModelForMaskedLM", {}, VOCABULARY, PADDING, 16),
    )[0]
    return (made.double() if double else made).eval()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def dense(model, batch):
    """The loss as the whole logits give it, written out once more."""
    logits = model(**batch["inputs"]).logits.flatten(0, 1)[batch["places"]]
    return logits, cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="sum")


def attached(task, model, samples):
    return task.prepare_model(model, tensors(task.collate(samples[:1])))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_logits_and_gradients_are_the_dense_ones(kind, task_of, samples):
    task, model = task_of(), model_of(kind, double=kind not in SINGLE)
    close = {"rtol": 1e-5, "atol": 1e-5} if kind in SINGLE else {"rtol": 1e-9, "atol": 1e-9}
    batch = tensors(task.collate(samples))
    assert "attention_mask" in batch["inputs"]
    expected, loss = dense(model, batch)
    grads = gradients(model, loss)

    assert attached(task, model, samples) == NOTES.get(kind, [])
    logits = task.logits(model, batch)
    assert logits.dtype == expected.dtype
    assert logits.shape == (6, VOCABULARY)
    assert expected.std() > 0.05, "logits that hardly differ would prove nothing"
    assert torch.allclose(logits, expected, **close)

    sparse, weight = task.loss(model, batch)
    found = gradients(model, sparse)
    assert weight == 6
    assert float(sparse.detach()) == pytest.approx(float(loss.detach()), rel=close["rtol"])
    assert found.keys() == grads.keys()
    for name, grad in grads.items():
        assert torch.allclose(found[name], grad, **close), name

    whole = model(**batch["inputs"]).logits
    assert whole.shape == (4, 12, VOCABULARY), "the hook is off outside the task"
    assert torch.equal(whole.flatten(0, 1)[batch["places"]], expected)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "electra"])
def test_logits_in_single_precision_are_the_dense_ones(kind, task_of, samples):
    task, model = task_of(), model_of(kind, double=False)
    batch = tensors(task.collate(samples))
    expected, _ = dense(model, batch)
    assert attached(task, model, samples) == []
    assert torch.allclose(task.logits(model, batch), expected, atol=1e-5)


def test_the_head_runs_on_the_masked_positions_alone(task_of, samples):
    task, model = task_of(), model_of("bert")
    attached(task, model, samples)
    seen = []
    model.cls.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    task.loss(model, tensors(task.collate(samples)))
    assert seen == [(1, 6, 16)]


def test_a_batch_without_anything_masked_runs_through_the_head_too(task_of, samples):
    task, model = task_of(), model_of("bert")
    attached(task, model, samples)
    loss, weight = task.loss(model, tensors(task.collate([task.zero_weight(one) for one in samples])))
    assert (float(loss.detach()), weight) == (0.0, 0.0)
    assert not any(grad.any() for grad in gradients(model, loss).values())


def test_the_hook_is_off_again_after_a_forward_that_fails(task_of, samples):
    task, model = task_of(), model_of("bert")
    attached(task, model, samples)
    batch = tensors(task.collate(samples))
    model.cls.predictions.decoder = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        task.loss(model, batch)
    assert model.base_model(**batch["inputs"])[0].shape == (4, 12, 16)


def test_attaching_leaves_no_gradient_and_keeps_the_mode(task_of, samples):
    for mode in (True, False):
        task, model = task_of(), model_of("bert").train(mode)
        attached(task, model, samples)
        assert model.training is mode
        assert all(parameter.grad is None for parameter in model.parameters())


def test_removing_the_hook_restores_the_model(task_of, samples):
    model = model_of("bert")
    batch = tensors(task_of().collate(samples))
    head = _masked_head.attach(model, batch["inputs"], batch["places"])
    head.places = batch["places"]
    assert model(**batch["inputs"]).logits.shape == (1, 6, VOCABULARY)
    head.remove()
    assert model(**batch["inputs"]).logits.shape == (4, 12, VOCABULARY)


class Mixed(torch.nn.Module):
    """A head that looks at the positions before its own."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, hidden):
        return self.head(hidden.cumsum(1))


class WholeHead(torch.nn.Module):
    """A head that only takes as many positions as a sample has."""

    def __init__(self, head):
        super().__init__()
        self.head, self.scale = head, torch.nn.Parameter(torch.ones(1, 12, 1, dtype=torch.float64))

    def forward(self, hidden):
        return self.head(hidden * self.scale)


@pytest.mark.parametrize("head", [Mixed, WholeHead])
def test_an_inexact_head_runs_on_all_positions_with_a_note(head, task_of, samples):
    task, model = task_of(), model_of("bert")
    model.cls = head(model.cls)
    (note,) = attached(task, model, samples)
    assert note.startswith("BertForMaskedLM: the head runs on all positions")
    assert not model.base_model._forward_hooks
    batch = tensors(task.collate([one for one in samples if len(one["labels"]) == 12]))
    logits, loss = dense(model, batch)
    assert torch.equal(task.logits(model, batch), logits)
    found, weight = task.loss(model, batch)
    assert (float(found.detach()), weight) == (float(loss.detach()), 3)


def test_a_model_without_a_base_of_its_own_runs_on_all_positions(task_of, samples):
    batch = tensors(task_of().collate(samples))
    model = model_of("bert").base_model
    assert _masked_head.attach(model, batch["inputs"], batch["places"]) is None
