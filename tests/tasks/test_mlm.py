"""Masked language modelling: the statistics of the mask, and that it is a function of what it is for."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.text import Text
from scipy import stats
from tasks.bigrams import Bigrams
from tasks.measuring import measured

from launcher.contract.random import Draw, Stream
from launcher.tasks import IGNORE, FeatureContext, mlm
from launcher.train.data_loader import tensors

P_VALUE = 1e-4
VOCABULARY, MASK, SPECIAL = 64, 4, [0, 1, 2, 3, 4]
ROWS, LENGTH = 400, 250

properties = settings(deadline=None, max_examples=40)


@pytest.fixture(scope="module")
def task_of(facts_of):
    known = facts_of(vocab_size=VOCABULARY, mask_token_id=MASK, special_ids=SPECIAL, pad_token_id=3)
    return lambda **keys: mlm.Task(mlm.Config(**keys), known)


def rows_of(tokens):
    """Rows of which each token is a word."""
    return [
        {"input_ids": np.asarray(row, dtype=np.uint16), "begins": np.ones(len(row), bool), "length": len(row)}
        for row in tokens
    ]


def drawn(task, tokens, epoch=0, seed=5, stream=Stream.MASK, ids=None, progress=1.0):
    """Masked tokens and labels of equally long samples, each of shape (samples, length)."""
    ids = range(len(tokens)) if ids is None else ids
    samples = task.samples(rows_of(tokens), [epoch] * len(tokens), list(ids), Draw(seed, stream, progress))
    return np.stack([s["input_ids"] for s in samples]), np.stack([s["labels"] for s in samples])


def expected(observed, probabilities):
    """The p-value of counts under these probabilities; 1 where there is but one kind of outcome."""
    if len(observed) == 1:
        return 1.0
    probabilities = np.asarray(probabilities, dtype=float)
    return stats.chisquare(observed, probabilities / probabilities.sum() * np.sum(observed)).pvalue


def independent(one, other):
    return stats.chi2_contingency([[np.sum((one == a) & (other == b)) for b in (0, 1)] for a in (0, 1)]).pvalue


@pytest.fixture(scope="module")
def plain(task_of):
    """100,000 tokens, all of them token 7, masked."""
    return drawn(task_of(), np.full((ROWS, LENGTH), 7))


# The statistics


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_the_share_of_masked_tokens_is_the_rate(task_of, rate):
    _, labels = drawn(task_of(mask_rate=rate), np.full((ROWS, LENGTH), 7))
    masked = np.count_nonzero(labels != IGNORE)
    assert expected([masked, labels.size - masked], [rate, 1 - rate]) > P_VALUE


@pytest.mark.parametrize("split", [(0.8, 0.1, 0.1), (0.5, 0.3, 0.2), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_masked_tokens_become_the_mask_a_random_token_or_stay_as_the_split_says(task_of, split):
    tokens, labels = drawn(task_of(split=split), np.full((ROWS, LENGTH), 7))
    now = tokens[labels != IGNORE]
    counts = [np.sum(now == MASK), np.sum(now == 7), np.sum((now != MASK) & (now != 7))]
    by_chance = split[1] / VOCABULARY  # a random token may be the mask, or the token that was there
    shares = [split[0] + by_chance, split[2] + by_chance, split[1] - 2 * by_chance]
    possible = np.array(shares) > 0
    assert np.sum(np.array(counts)[~possible]) == 0
    assert expected(np.array(counts)[possible], np.array(shares)[possible]) > P_VALUE


def test_random_tokens_are_flat_over_the_whole_vocabulary(task_of):
    tokens, labels = drawn(task_of(mask_rate=0.9, split=(0.0, 1.0, 0.0)), np.full((ROWS, LENGTH), 7))
    counts = np.bincount(tokens[labels != IGNORE], minlength=VOCABULARY)
    assert len(counts) == VOCABULARY
    assert expected(counts, np.ones(VOCABULARY)) > P_VALUE


def test_every_position_and_every_sample_is_masked_as_often(plain):
    masked = plain[1] != IGNORE
    assert expected(masked.sum(axis=0), np.ones(LENGTH)) > P_VALUE
    assert expected(masked.sum(axis=1), np.ones(ROWS)) > P_VALUE


def test_neighbours_are_masked_independently(plain):
    masked = plain[1] != IGNORE
    assert independent(masked[:, 1:], masked[:, :-1]) > P_VALUE
    assert independent(masked[1:], masked[:-1]) > P_VALUE


def test_whether_and_how_and_by_what_a_token_is_replaced_are_independent(task_of):
    tokens, labels = drawn(task_of(mask_rate=0.5, split=(0.4, 0.6, 0.0)), np.full((ROWS, LENGTH), 7))
    masked, random = labels != IGNORE, tokens != MASK
    assert independent(masked[:, 1:] & random[:, 1:], masked[:, :-1] & random[:, :-1]) > P_VALUE
    low = (tokens < VOCABULARY // 2)[masked & random]
    assert expected([low.sum(), (~low).sum()], [VOCABULARY // 2 - 1, VOCABULARY // 2]) > P_VALUE


@pytest.mark.parametrize(
    "change", [{"epoch": 1}, {"seed": 6}, {"stream": Stream.EVALUATE}, {"ids": range(ROWS, 2 * ROWS)}], ids=str
)
def test_another_epoch_seed_stream_or_id_gives_an_independent_mask(task_of, plain, change):
    _, labels = drawn(task_of(), np.full((ROWS, LENGTH), 7), **change)
    assert not np.array_equal(labels, plain[1])
    assert independent(labels != IGNORE, plain[1] != IGNORE) > P_VALUE


def test_special_tokens_are_never_masked(task_of):
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH))
    masked, labels = drawn(task_of(mask_rate=0.9), tokens)
    special = np.isin(tokens, SPECIAL)
    assert np.array_equal(masked[special], tokens[special])
    assert np.all(labels[special] == IGNORE)
    assert np.count_nonzero(labels[~special] != IGNORE) > 0.85 * np.sum(~special)


def test_named_tokens_are_never_masked(facts_of):
    known = facts_of(vocab_size=VOCABULARY, mask_token_id=MASK, special_ids=SPECIAL, token_ids={"the": 9, "##s": 11})
    config = mlm.Config(mask_rate=0.9, never=["the", "##s"])
    assert list(mlm.Task.named_tokens(config)) == ["the", "##s"]
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, 50))
    masked, labels = drawn(mlm.Task(config, known), tokens)
    spared = np.isin(tokens, [*SPECIAL, 9, 11])
    assert np.array_equal(masked[spared], tokens[spared])
    assert np.all(labels[spared] == IGNORE)
    assert expected([np.sum(labels != IGNORE), np.sum((labels == IGNORE) & ~spared)], [0.9, 0.1]) > P_VALUE


# A rate that changes


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.5), (0.25, 0.4), (0.5, 0.3), (0.9, 0.14), (1.0, 0.1)])
def test_a_scheduled_rate_is_linear_in_the_steps(task_of, progress, rate):
    task = task_of(mask_rate={"start": 0.5, "end": 0.1})
    _, labels = drawn(task, np.full((ROWS, LENGTH), 7), progress=progress)
    masked = np.count_nonzero(labels != IGNORE)
    assert expected([masked, labels.size - masked], [rate, 1 - rate]) > P_VALUE


def test_an_evaluation_masks_at_the_rate_of_the_end(task_of):
    changing, steady = task_of(mask_rate={"start": 0.5, "end": 0.1}), task_of(mask_rate=0.1)
    rows = rows_of(np.full((20, LENGTH), 7))
    one, other = (task.samples(rows, [0] * 20, range(20), Draw(5, Stream.EVALUATE)) for task in (changing, steady))
    assert all(np.array_equal(a["labels"], b["labels"]) for a, b in zip(one, other, strict=True))


def test_a_rate_with_a_schedule_masks_more_or_less_of_the_same_and_memory_is_for_the_most(task_of):
    task = task_of(mask_rate={"start": 0.5, "end": 0.1})
    early, late = (drawn(task, np.full((2, LENGTH), 7), progress=p)[1] != IGNORE for p in (0.2, 0.7))
    assert np.all(early | ~late) and early.sum() > late.sum()
    assert task.output_size(100) == task_of(mask_rate=0.5).output_size(100)


# What it is a function of


token_lists = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=8)


@properties
@given(token_lists, st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.data())
def test_the_mask_of_a_sample_does_not_depend_on_its_batch(task_of, tokens, seed, epoch, data):
    task, ids = task_of(mask_rate=0.5), [3 + 1000 * n for n in range(len(tokens))]
    epochs = [epoch + n % 2 for n in range(len(tokens))]
    whole = task.samples(rows_of(tokens), epochs, ids, Draw(seed, Stream.MASK))
    chosen = data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=8))
    rows = rows_of([tokens[n] for n in chosen])
    part = task.samples(rows, [epochs[n] for n in chosen], [ids[n] for n in chosen], Draw(seed, Stream.MASK))
    for number, sample in zip(chosen, part, strict=True):
        assert np.array_equal(sample["input_ids"], whole[number]["input_ids"])
        assert np.array_equal(sample["labels"], whole[number]["labels"])


@properties
@given(token_lists, st.integers(0, 100))
def test_other_tokens_stay_and_labels_are_the_original_tokens(task_of, tokens, seed):
    samples = task_of(mask_rate=0.5).samples(
        rows_of(tokens), [0] * len(tokens), list(range(len(tokens))), Draw(seed, Stream.MASK)
    )
    for before, sample in zip(tokens, samples, strict=True):
        before, chosen = np.array(before), sample["labels"] != IGNORE
        assert np.array_equal(sample["labels"][chosen], before[chosen])
        assert np.array_equal(sample["input_ids"][~chosen], before[~chosen])
        assert sample["input_ids"].max() < VOCABULARY


@properties
@given(st.integers(1, 60), st.integers(0, 2**63 - 1))
def test_a_prefix_of_a_sample_is_masked_as_the_whole(task_of, length, seed):
    whole, of_whole = drawn(task_of(), np.full((1, 60), 7), seed=seed)
    part, of_part = drawn(task_of(), np.full((1, length), 7), seed=seed)
    assert np.array_equal(part[0], whole[0, :length])
    assert np.array_equal(of_part[0], of_whole[0, :length])


@properties
@given(st.integers(0, 2**63 - 1))
def test_a_higher_rate_masks_what_a_lower_one_does_and_more(task_of, seed):
    few, many = (drawn(task_of(mask_rate=rate), np.full((2, 60), 7), seed=seed)[1] for rate in (0.1, 0.4))
    assert np.all((few == IGNORE) | (many != IGNORE))


def test_no_rows_give_no_samples(task_of):
    assert task_of().samples([], [], [], Draw(0, Stream.MASK)) == []


# Its configuration


@pytest.mark.parametrize("split", [[0.8, 0.1, 0.2], [1.1, -0.1, 0.0], [0.5, 0.5, 0.1]])
def test_shares_that_do_not_add_up_are_refused(split):
    with pytest.raises(ValidationError, match="at least 0 and add up to 1"):
        mlm.Config(split=split)


@pytest.mark.parametrize("rate", [0, 1, -0.1, {"start": 0, "end": 0.1}, {"start": 0.5}, {"start": 0.5, "end": 1}])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(ValidationError, match="mask_rate"):
        mlm.Config(mask_rate=rate)


# RankBatches


def sample(tokens, labels):
    return {"input_ids": np.array(tokens), "labels": np.array(labels)}


def test_samples_of_one_length_have_no_attention_mask(task_of):
    batch = task_of().collate([sample([5, 6, 7], [IGNORE, 9, IGNORE]), sample([8, 9, 10], [11, IGNORE, 12])])
    assert list(batch["inputs"]) == ["input_ids"]
    assert batch["inputs"]["input_ids"].tolist() == [[5, 6, 7], [8, 9, 10]]
    assert batch["places"].tolist() == [1, 3, 5]
    assert batch["labels"].tolist() == [9, 11, 12]


def test_shorter_samples_are_padded_and_masked_out(task_of):
    batch = task_of().collate([sample([5], [IGNORE]), sample([8, 9, 10], [11, IGNORE, 12])])
    assert batch["inputs"]["input_ids"].tolist() == [[5, 3, 3], [8, 9, 10]]
    assert batch["inputs"]["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["places"].tolist() == [3, 5]
    assert {array.dtype for array in (batch["places"], batch["labels"])} == {np.dtype(np.int64)}


def test_a_batch_without_anything_masked_still_has_one_place(task_of):
    batch = task_of().collate([sample([5, 6], [IGNORE, IGNORE])])
    assert batch["places"].tolist() == [0]
    assert batch["labels"].tolist() == [IGNORE]


def test_the_weight_is_the_number_of_labels(task_of):
    one = sample([5, 6, 7], [IGNORE, 9, 4])
    assert task_of().weight(one) == 2
    assert task_of().weight(task_of().zero_weight(one)) == 0


# Features


def features(rows, encoder, max_length, **keys):
    """The token ids of all samples, and how many rows gave none. Read in batches of 1,000 rows."""
    texts = pa.table({"text": pa.array(rows, pa.large_string())}).to_batches(max_chunksize=1000)
    found = list(
        mlm.Task.features(mlm.Config(**keys), iter(texts), FeatureContext({}, max_length, "data.train", encoder))
    )
    return pa.concat_tables([f.table for f in found])["input_ids"].to_pylist(), sum(f.empty for f in found)


@pytest.mark.parametrize("count", [1, 7, 2300])
def test_chunks_are_all_documents_joined_and_cut(words, encoder, texts, count):
    documents = (texts * 20)[:count]
    chunks, empty = features(documents, encoder, 16)
    joined = [token for text in documents for token in words(text)["input_ids"]]
    assert [token for chunk in chunks for token in chunk] == joined
    assert {len(chunk) for chunk in chunks[:-1]} <= {16}
    assert 0 < len(chunks[-1]) <= 16
    assert empty == 0


@pytest.mark.parametrize("shape", ["documents", "packed"])
def test_documents_are_one_sample_each_and_truncated_before_their_end(words, encoder, texts, shape):
    found, _ = features(texts, encoder, 12, samples=shape)
    whole = [words(text)["input_ids"] for text in texts]
    assert found == [ids if len(ids) <= 12 else [*ids[:11], words.sep_token_id] for ids in whole]
    assert max(map(len, whole)) > 12 > min(map(len, whole))


@pytest.mark.parametrize("stride", [0, 3])
def test_long_documents_are_split_into_samples_whose_neighbours_share_a_stride(words, encoder, texts, stride):
    found, _ = features(texts, encoder, 12, samples="documents", overflow="split", stride=stride)
    expected = []
    for text in texts:
        first, *inner, last = words(text)["input_ids"]
        starts = range(0, max(1, len(inner) - stride), 10 - stride)
        expected += [[first, *inner[start : start + 10], last] for start in starts]
    assert found == expected
    assert len(found) > len(texts)


def test_blank_documents_are_left_out_and_counted(encoder):
    for kind in ("chunks", "documents"):
        some, empty = features(["the first", "", " \n ", "the last"], encoder, 8, samples=kind)
        assert some == features(["the first", "the last"], encoder, 8, samples=kind)[0]
        assert empty == 2


def test_a_word_begins_where_its_first_token_is(words, encoder, texts):
    """Each special token is a word of its own."""
    batch = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    given = mlm.Config(samples="documents"), iter([batch]), FeatureContext({}, 64, "data.train", encoder)
    (found,) = mlm.Task.features(*given)
    for text, begins in zip(texts, found.table["begins"].to_pylist(), strict=True):
        inside = [not token.startswith("##") for token in words.tokenize(text)]
        assert begins == [True, *inside, True]


@pytest.mark.parametrize(
    ("keys", "told"),
    [({"overflow": "split"}, "overflow is for documents"), ({"stride": 3}, "needs overflow: split")]
    + [({"samples": "documents", "stride": -1}, "stride")],
)
def test_an_overflow_without_effect_is_refused(keys, told):
    with pytest.raises(ValidationError, match=told):
        mlm.Config(**keys)


# Baselines and metrics


def test_the_unigram_entropy_is_that_of_the_tokens_without_special_ones(task_of):
    halves = ([[1, 7, 7, 2]], [[1, 8, 9, 2]])
    tables = (pa.table({"input_ids": pa.array(half, type=pa.list_(pa.uint16()))}) for half in halves)
    found = mlm.Task.baseline(mlm.Config(), tables, SPECIAL)
    assert found == {"unigram_entropy": pytest.approx(1.5 * math.log(2))}


def test_one_token_over_and_over_has_no_entropy():
    table = pa.table({"input_ids": pa.array([[7] * 9], type=pa.list_(pa.uint16()))})
    assert mlm.Task.baseline(mlm.Config(), iter([table]), SPECIAL) == {"unigram_entropy": 0.0}


PADDING = [1 / 3] * 3


def test_metrics_are_those_computed_by_hand(task_of):
    task, model = task_of(), Bigrams([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.3, 0.6], PADDING])
    samples = [
        sample([0, 1], [0, 2]),  # 0.7, right; 0.25, wrong
        sample([2, 0, 1], [2, IGNORE, 1]),  # 0.6, right; 0.5, right
        sample([1, 2], [IGNORE, 1]),  # 0.3, wrong
        task.zero_weight(sample([0, 0], [0, 0])),
    ]
    loss = -sum(map(math.log, (0.7, 0.25, 0.6, 0.5, 0.3))) / 5
    for groups in ([samples], [samples[:1], samples[1:3], samples[3:]], [samples[::-1]]):
        assert measured(task, model, groups) == pytest.approx(
            {"loss": loss, "perplexity": math.exp(loss), "accuracy": 3 / 5}
        )


def test_the_loss_is_the_sum_over_the_labels_and_in_full_precision(task_of):
    task, model = task_of(), Bigrams([[0.5, 0.5], [0.25, 0.75]])
    batch = tensors(task.collate([sample([0, 1], [1, 0])]))
    loss, weight = task.loss(model, batch)
    assert float(loss.detach()) == pytest.approx(math.log(2) + math.log(4))
    assert weight == 2
    assert loss.dtype == torch.float64
    assert task.loss(model.bfloat16(), batch)[0].dtype == torch.float32


def test_a_sample_is_rendered_with_the_original_of_each_masked_token(words, facts_of):
    task = mlm.Task(mlm.Config(), facts_of())
    the, step, mask = words.convert_tokens_to_ids(["the", "step", "[MASK]"])
    shown = task.render(sample([1, mask, step, 2], [IGNORE, the, IGNORE, IGNORE]), words)
    assert Text.from_markup(shown).plain == "[CLS] the→[MASK] step [SEP]"
    (span,) = Text.from_markup(shown).spans
    assert (span.start, span.end) == (6, 16)
