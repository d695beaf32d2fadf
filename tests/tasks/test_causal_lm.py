"""Causal language modelling: the textbook's loss, and models that look ahead refused."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from rich.text import Text
from tasks.bigrams import Bigrams
from tasks.measuring import measured

from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.tasks import IGNORE, FeatureContext, causal_lm
from launcher.train.data_loader import tensors

Task = causal_lm.Task


@pytest.fixture
def task(facts_of):
    return Task(causal_lm.Config(), facts_of(vocab_size=50, pad_token_id=0, mask_token_id=None))


def samples_of(task, *tokens):
    rows = [{"input_ids": np.array(ids, dtype=np.uint16), "length": len(ids)} for ids in tokens]
    return task.samples(rows, [0] * len(rows), list(range(len(rows))), Draw(3, Stream.MASK))


@pytest.fixture
def decoder(task):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    return GPT2LMHeadModel(config).double().eval()


@pytest.fixture
def encoder_model():
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return BertForMaskedLM(config)


TOKENS = ([5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16])


def test_the_loss_is_the_shifted_cross_entropy_of_the_textbook(task, decoder):
    """The sum of -log p(token | those before it) over every token but the first, one document at a time."""
    expected = 0.0
    for ids in TOKENS:
        for place in range(1, len(ids)):
            logits = decoder(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
            expected -= float(logits.detach().log_softmax(-1)[ids[place]])
    loss, weight = task.loss(decoder, tensors(task.collate(samples_of(task, *TOKENS))))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert weight == sum(len(ids) - 1 for ids in TOKENS) == sum(map(task.weight, samples_of(task, *TOKENS)))


def test_the_loss_is_that_of_transformers_for_a_single_document(task, decoder):
    ids = torch.tensor([TOKENS[0]])
    theirs = float(decoder(input_ids=ids, labels=ids).loss.detach())
    loss, weight = task.loss(decoder, tensors(task.collate(samples_of(task, TOKENS[0]))))
    assert float(loss.detach()) / float(weight) == pytest.approx(theirs, rel=1e-6)


def test_labels_are_the_next_tokens_and_none_at_the_end(task):
    one, other = samples_of(task, [5, 6, 7], [8])
    assert one["input_ids"].tolist() == [5, 6, 7]
    assert one["labels"].tolist() == [6, 7, IGNORE]
    assert other["labels"].tolist() == [IGNORE]
    assert task.weight(other) == 0


def test_no_document_predicts_the_next_one_in_a_row(facts_of):
    task = Task(causal_lm.Config(samples="packed"), facts_of(vocab_size=50))
    row = task.pack(samples_of(task, [5, 6, 7], [8, 9]))
    assert row["labels"].tolist() == [6, 7, IGNORE, 9, IGNORE]


def test_samples_do_not_depend_on_seed_or_epoch(task):
    row = {"input_ids": np.array([5, 6, 7], dtype=np.uint16), "length": 3}
    found = [task.samples([row], [epoch], [4], Draw(seed, Stream.MASK))[0] for seed, epoch in ((0, 0), (9, 4))]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_metrics_are_those_computed_by_hand(task):
    model = Bigrams([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.3, 0.6]])
    some = samples_of(task, [0, 0, 1], [2, 2], [1])  # 0.7, right; 0.2, wrong; 0.6, right; nothing
    loss = -sum(map(math.log, (0.7, 0.2, 0.6))) / 3
    for groups in ([some], [some[:1], some[1:]], [[*some, task.zero_weight(some[0])]]):
        assert measured(task, model, groups) == pytest.approx(
            {"loss": loss, "perplexity": math.exp(loss), "accuracy": 2 / 3}
        )


# Models that look ahead


@pytest.mark.parametrize("length", [1, 2, 7, 40, 400])
def test_a_model_that_sees_what_it_should_predict_is_refused(task, encoder_model, length):
    batch = tensors(task.collate(samples_of(task, [5 + n % 40 for n in range(length)])))
    with pytest.raises(UserError, match=r"^model: BertForMaskedLM sees the tokens that it should predict \(a decoder"):
        task.prepare_model(encoder_model.train(), batch)
    assert encoder_model.training


@pytest.mark.parametrize("ids", [[5], [5, 6], range(5, 45), [49] * 9], ids=len)
def test_a_decoder_is_accepted(task, decoder, ids):
    assert task.prepare_model(decoder, tensors(task.collate(samples_of(task, ids)))) == []


def test_an_encoder_that_supports_it_is_configured_as_a_decoder(task, tiny):
    model = tiny(task)
    assert type(model).__name__ == "BertLMHeadModel"
    assert task.prepare_model(model, tensors(task.collate(samples_of(task, range(5, 20))))) == []


# Features


def features(texts, encoder, length, **keys):
    batch = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    found = Task.features(causal_lm.Config(**keys), iter([batch]), FeatureContext({}, length, "data.train", encoder))
    return [ids for one in found for ids in one.table["input_ids"].to_pylist()]


def test_documents_end_with_the_end_token_without_other_special_tokens(endless, texts):
    plain = [endless.backend.encode(text).ids for text in texts]
    end = endless.backend.token_to_id("<|end|>")
    assert not any(end in ids for ids in plain)
    assert features(texts, endless, 512, samples="documents") == [[*ids, end] for ids in plain]
    chunks = features(texts, endless, 16)
    assert [token for chunk in chunks for token in chunk] == [token for ids in plain for token in [*ids, end]]


def test_a_sample_is_rendered_as_its_tokens(task, words):
    (sample,) = samples_of(task, words("the step")["input_ids"])
    assert Text.from_markup(task.render(sample, words)).plain == "[CLS] the step [SEP]"
