"""The layer that returns losses in place of logits: as good as the logits' own for every architecture, or not used."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from launcher.models import config
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import IGNORE, _output_layer, causal_lm, mlm, seq2seq
from launcher.train.data_loader import tensors

VOCABULARY, PADDING = 50, 1
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NARROW = {"n_embd": 16, "n_layer": 2, "n_head": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
KINDS = {
    "bert, tied": (mlm, "bert", WIDTHS),
    "bert, not tied": (mlm, "bert", {**WIDTHS, "tie_word_embeddings": False}),
    "gpt2": (causal_lm, "gpt2", NARROW),
    "llama": (causal_lm, "llama", {**WIDTHS, "num_key_value_heads": 1}),
    "t5": (seq2seq, "t5", T5),
}
CLASSES = {
    mlm: "AutoModelForMaskedLM", causal_lm: "AutoModelForCausalLM", seq2seq: "AutoModelForSeq2SeqLM",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(facts_of):
    """Makes a task, a model in fp64 and a micro-batch."""
    known = facts_of(vocab_size=VOCABULARY, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], pad_token_id=PADDING)

    def make(module, kind, widths):
        torch.manual_seed(0)
        task = module.Task(module.Config(), known)
        needs = ModelRequirements(CLASSES[module], task.model_options(), VOCABULARY, PADDING, 16)
        model = config.Model(config.Config(type=kind, dropout=0.0, **widths)).build(needs)[0].double().eval()
        draw = np.random.default_rng(2)
        ids = [draw.integers(5, VOCABULARY, length) for length in (12, 7, 5)]
        labels = [np.where(np.arange(len(one)) % 3 == 1, one, IGNORE) for one in ids]
        samples = [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]
        return task, model, tensors(task.collate(samples))

    return make


def of_logits(task, model, batch):
    """Loss, and loss and hits of each label, from the whole logits."""
    logits, labels = task.logits(model, batch), batch["labels"]
    each = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum"), each, logits.argmax(-1) == labels


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_scores_are_those_of_the_logits(kind, made):
    task, model, batch = made(*KINDS[kind])
    before = task.logits(model, batch).detach()
    assert task.prepare_model(model, batch) == []
    loss, each, hits = of_logits(task, model, batch)
    expected = gradients(model, loss)
    found, weight = task.loss(model, batch)
    assert "SummedCrossEntropy" in _nodes(found)
    assert weight == (batch["labels"] != IGNORE).sum()
    assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-12)
    of_blocks = gradients(model, found)
    assert of_blocks.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(of_blocks[name], gradient, rtol=1e-10, atol=1e-12), name
    with torch.no_grad():
        scores = task.predict(model, batch)
        zeros = torch.zeros(3, dtype=torch.float64)
        assert torch.allclose(scores["loss"], zeros.index_add(0, batch["rows"], each), rtol=1e-12)
        assert torch.equal(scores["correct"], zeros.index_add(0, batch["rows"], hits.double()))
        assert torch.allclose(task.logits(model, batch), before, rtol=1e-12)


def _nodes(loss):
    seen, todo = "", [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            seen += type(node).__name__ + " "
            todo += [after for after, _ in node.next_functions]
            if len(seen) > 500:
                break
    return seen


class Changed(torch.nn.Module):
    """An output layer whose result is changed."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.factor = layer, torch.nn.Parameter(torch.ones((), dtype=torch.float64))


class Scaled(Changed):
    """A learnt factor that is 1 when training begins."""

    def forward(self, hidden):
        return self.layer(hidden) * self.factor


class Capped(Changed):
    def forward(self, hidden):
        return 5 * torch.tanh(self.layer(hidden) / 5)


class Adapted(Changed):
    """A low-rank adapter that is 0 when training begins."""

    def __init__(self, layer):
        super().__init__(layer)
        self.down = torch.nn.Linear(layer.in_features, 2, bias=False, dtype=torch.float64)
        self.up = torch.nn.Linear(2, layer.out_features, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, hidden):
        return self.layer(hidden) + self.up(self.down(hidden))


class InPlace(Changed):
    def forward(self, hidden):
        return self.layer(hidden).mul_(2.0)


class Dropped(Changed):
    """Dropout of the logits, which does nothing unless the model trains."""

    def forward(self, hidden):
        return torch.nn.functional.dropout(self.layer(hidden), 0.5, self.training)


class DroppedInPlace(Changed):
    def forward(self, hidden):
        return torch.nn.functional.dropout(self.layer(hidden), 0.5, self.training, inplace=True)


class Checkpointed(Changed):
    """A head that is computed once more in the backward, outside of the loss."""

    reentrant = True

    def forward(self, hidden):
        return checkpoint(self.layer, hidden, use_reentrant=self.reentrant)


class CheckpointedOnDemand(Checkpointed):
    """A head that is computed once more only if its backward needs stored inputs, which the loss in blocks has not."""

    reentrant = False


@pytest.mark.parametrize("head", [Scaled, Capped, Adapted, InPlace, Dropped, DroppedInPlace, Checkpointed])
def test_logits_that_are_changed_after_the_layer_keep_the_plain_loss_with_a_note(head, made):
    task, model, batch = made(*KINDS["bert, not tied"])
    model.cls.predictions.decoder = head(model.cls.predictions.decoder)
    (note,) = task.prepare_model(model, batch)
    assert note == "BertForMaskedLM: the loss needs all logits at once (they are no linear layer's output)"
    assert not any("forward" in vars(module) for module in model.modules())
    loss = task.loss(model, batch)[0]
    assert "SummedCrossEntropy" not in _nodes(loss)
    assert float(loss.detach()) == pytest.approx(float(of_logits(task, model, batch)[0].detach()), rel=1e-12)


class Counting(torch.nn.Module):
    """A layer with a buffer that changes in training, and which is checkpointed with reentrance."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("count", torch.zeros(()))

    def forward(self, hidden, *others, **named):
        self.count += self.training
        return checkpoint(partial(self.layer, **named), hidden, *others, use_reentrant=True)


def test_the_test_in_training_changes_nothing(made):
    task, model, batch = made(mlm, "bert", {**WIDTHS, "hidden_dropout_prob": 0.1})
    layers = model.bert.encoder.layer
    layers[1] = Counting(layers[1])
    kept = model.bert.embeddings.word_embeddings.weight
    kept.grad = torch.ones_like(kept)
    before, state = kept.grad, torch.get_rng_state()
    assert task.prepare_model(model.train(), batch) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert float(layers[1].count) == 0.0
    assert [p.grad for p in model.parameters() if p.grad is not None] == [before]
    assert before.eq(1).all()


def test_a_model_that_adds_a_bias_of_its_own_keeps_the_plain_loss(made):
    task, model, batch = made(seq2seq, "bart", BART)
    (note,) = task.prepare_model(model, batch)
    assert note.startswith("BartForConditionalGeneration: the loss needs all logits")


def test_a_wrong_gradient_is_noticed(made, monkeypatch):
    task, model, batch = made(*KINDS["gpt2"])
    right = _output_layer._linear_cross_entropy._Gradients.add

    def wrong(self, rows, logits):
        right(self, rows, logits * 1.01)

    monkeypatch.setattr(_output_layer._linear_cross_entropy._Gradients, "add", wrong)
    assert task.prepare_model(model, batch)[0].startswith("GPT2LMHeadModel: the loss needs all logits")


def test_the_layer_returns_logits_again_after_a_forward_that_fails(made):
    task, model, batch = made(*KINDS["gpt2"])
    assert task.prepare_model(model, batch) == []
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        task.loss(model, {**batch, "labels": batch["labels"][:3]})
    assert task.logits(model, batch).shape == (36, VOCABULARY)
    training = model.train().training
    task.prepare_model(model, batch)
    assert model.training is training


def test_a_head_that_is_checkpointed_without_reentrance_has_the_same_gradients(made):
    task, model, batch = made(*KINDS["bert, not tied"])
    model.cls.predictions.decoder = CheckpointedOnDemand(model.cls.predictions.decoder)
    expected = gradients(model, of_logits(task, model, batch)[0])
    assert task.prepare_model(model, batch) == []
    found = gradients(model, task.loss(model, batch)[0])
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-10, atol=1e-12) for name in found)


def test_a_frozen_output_layer_passes_the_gradient_on(made):
    task, model, batch = made(*KINDS["bert, not tied"])
    assert task.prepare_model(model, batch) == []
    for parameter in model.cls.predictions.decoder.parameters():
        parameter.requires_grad_(False)
    expected = gradients(model, of_logits(task, model, batch)[0])
    found = gradients(model, task.loss(model, batch)[0])
    assert found.keys() == expected.keys()
    assert "cls.predictions.decoder.weight" not in found
    assert all(torch.allclose(found[name], expected[name], rtol=1e-10, atol=1e-12) for name in found)
