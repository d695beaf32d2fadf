"""Which tokens are to be predicted: words and spans, against their definitions written out with loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from launcher.contract import random
from launcher.contract.random import Draw, Stream
from launcher.tasks import IGNORE, _mask_selection, mlm

P_VALUE = 1e-4
VOCABULARY, MASK, SPECIAL, SPARED = 200, 4, [0, 1, 2, 3, 4], 50
ROWS, LENGTH = 300, 200

properties = settings(deadline=None, max_examples=60)
all_begins = st.lists(st.booleans(), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def task_of(facts_of):
    known = facts_of(vocab_size=VOCABULARY, mask_token_id=MASK, special_ids=SPECIAL, token_ids={"the": SPARED})
    return lambda **keys: mlm.Task(mlm.Config(**keys), known)


def rows_of(count=ROWS, length=LENGTH, seed=0):
    """Samples between special tokens, of words of one to five tokens."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids, begins = draw.integers(5, VOCABULARY, length), draw.random(length) < 0.5
        ids[[0, -1]], begins[[0, 1, -1]] = [1, 2], True
        rows.append({"input_ids": ids.astype(np.uint16), "begins": begins, "length": length})
    return rows


def drawn(task, rows, epoch=0, seed=5, progress=1.0, ids=None):
    ids = list(range(len(rows))) if ids is None else ids
    return task.samples(rows, [epoch] * len(rows), ids, Draw(seed, Stream.MASK, progress))


def words_of(begins):
    """The words of a sample, as lists of places."""
    words = []
    for place, begin in enumerate(begins):
        if begin or not words:
            words.append([])
        words[-1].append(place)
    return words


def words32(count, seed):
    return tuple(np.random.default_rng([seed, n]).integers(0, 2**32, count).astype(np.uint64) for n in range(4))


# Whole words


@properties
@given(all_begins, st.integers(0, 1000), st.sampled_from([0.15, 0.5, 0.9]))
def test_a_word_is_masked_where_the_number_of_its_first_token_says(begins, seed, rate):
    begins[0] = True
    draws = words32(len(begins), seed)[0]
    found = _mask_selection.whole_words(draws, np.array(begins), rate)
    for word in words_of(begins):
        assert found[word].tolist() == [bool(draws[word[0]] / 2**32 < rate)] * len(word)


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_whole_words_are_masked_at_the_rate(task_of, rate):
    rows, masked, whole = rows_of(), 0, 0
    for row, sample in zip(rows, drawn(task_of(mask="words", mask_rate=rate), rows), strict=True):
        chosen = sample["labels"] != IGNORE
        for word in words_of(row["begins"]):
            if not np.isin(row["input_ids"][word], SPECIAL).any():
                assert len(set(chosen[word])) == 1
                masked, whole = masked + chosen[word[0]], whole + 1
    assert stats.binomtest(int(masked), whole, rate).pvalue > P_VALUE


@properties
@given(st.integers(0, 2**40))
def test_words_of_one_token_are_masked_as_tokens_are(task_of, seed):
    rows = [{**row, "begins": np.ones(60, bool)} for row in rows_of(3, 60)]
    tokens, words = (drawn(task_of(mask=mask), rows, seed=seed) for mask in ("tokens", "words"))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(tokens, words, strict=True))


def test_a_chunk_that_begins_within_a_word_begins_with_a_word_of_its_own(task_of):
    """And does not take the word before it in the batch for its own."""
    rows = rows_of(40, 20)
    for row in rows:
        row["begins"][:3] = False
        row["input_ids"][0] = 77
    whole = drawn(task_of(mask="words", mask_rate=0.5), rows)
    for number, sample in enumerate(whole):
        assert len(set((sample["labels"] != IGNORE)[:3])) == 1
        (alone,) = drawn(task_of(mask="words", mask_rate=0.5), rows[number : number + 1], ids=[number])
        assert np.array_equal(alone["labels"], sample["labels"])


# What is never chosen


@pytest.mark.parametrize("mask", ["tokens", "words", "spans"])
def test_protected_tokens_are_never_chosen(task_of, mask):
    rows = rows_of()
    task = task_of(mask=mask, mask_rate=0.6, never=["the"])
    spared = 0
    for row, sample in zip(rows, drawn(task, rows), strict=True):
        kept = np.isin(row["input_ids"], [*SPECIAL, SPARED])
        assert np.all(sample["labels"][kept] == IGNORE)
        assert np.array_equal(sample["input_ids"][kept], row["input_ids"][kept])
        spared += np.sum(row["input_ids"] == SPARED)
    assert spared > 100


def test_a_table_of_protected_tokens():
    assert _mask_selection.protected(6, [0, 4]).tolist() == [True, False, False, False, True, False]
    assert not _mask_selection.protected(3, []).any()


# Spans


def naive_spans(draws, begins, free, rate, p, longest):
    """SpanBERT's masking of one sample, written out: what is chosen, and the first token of each one's span."""
    words = words_of(begins)
    starts = [number for number, word in enumerate(words) if begins[word[0]] and free[word[0]]]
    budget = int(rate * sum(free) + draws[2][0] / 2**32)
    shares = [p * (1 - p) ** n for n in range(longest)]
    chosen, owner = [False] * len(begins), list(range(len(begins)))
    for attempt in range(len(begins)):
        if sum(chosen) >= budget or not starts:
            break
        at, length = draws[0][attempt] / 2**32 * sum(shares), 1
        while length < longest and sum(shares[:length]) <= at:
            length += 1
        first = starts[int(draws[1][attempt]) * len(starts) >> 32]
        for word in words[first : first + length]:
            if sum(chosen) >= budget or not all(free[place] for place in word):
                break
            if not any(chosen[place] for place in word):
                for place in word:
                    chosen[place], owner[place] = True, words[first][0]
    return chosen, owner


@properties
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([True, True, True, False])), min_size=1, max_size=60),
    st.integers(0, 1000), st.sampled_from([0.1, 0.3, 0.8]), st.sampled_from([0.2, 0.6]), st.integers(1, 10),
)  # fmt: skip
def test_spans_are_those_of_the_definition_written_out(tokens, seed, rate, p, longest):
    begins, free = (np.array(column) for column in zip(*tokens, strict=True))
    begins[0] = True
    draws = words32(len(begins), seed)
    chosen, owner = _mask_selection.spans(draws, begins, free, rate, p, longest)
    expected = naive_spans([d.tolist() for d in draws], begins.tolist(), free.tolist(), rate, p, longest)
    assert (chosen.tolist(), owner.tolist()) == expected


@pytest.mark.parametrize(("p", "longest"), [(0.2, 10), (0.5, 4), (0.9, 3), (0.2, 1)])
def test_lengths_are_geometric_and_cut_off(p, longest):
    lengths = _mask_selection.span_lengths(words32(100_000, 3)[0], p, longest)
    counts = np.bincount(lengths, minlength=longest + 1)
    assert counts[0] == 0 and len(counts) == longest + 1
    shares = p * (1 - p) ** np.arange(longest)
    if longest > 1:
        assert stats.chisquare(counts[1:], shares / shares.sum() * 100_000).pvalue > P_VALUE


def test_the_lengths_at_the_ends_of_the_range_of_a_word():
    ends = np.array([0, 2**32 - 1], dtype=np.uint64)
    assert _mask_selection.span_lengths(ends, 0.2, 10).tolist() == [1, 10]
    assert _mask_selection.span_lengths(ends, 1e-9, 10).tolist() == [1, 10]


def test_the_mean_length_is_that_of_the_paper():
    """Joshi et al. (2020), section 3.1: p = 0.2 and at most 10 give a mean of 3.8 words."""
    lengths = _mask_selection.span_lengths(words32(100_000, 1)[0], 0.2, 10)
    assert lengths.mean() == pytest.approx(3.8, abs=0.03)


def spans_of(task, rows):
    """Each row, and what is chosen of it."""
    return [(row, sample["labels"] != IGNORE) for row, sample in zip(rows, drawn(task, rows), strict=True)]


def test_spans_are_of_whole_words(task_of):
    for row, chosen in spans_of(task_of(mask="spans", mask_rate=0.3), rows_of(100)):
        for word in words_of(row["begins"]):
            assert len(set(chosen[word])) == 1


@pytest.mark.parametrize("rate", [0.1, 0.15, 0.3])
def test_a_sample_is_masked_to_its_budget_and_at_most_the_rest_of_a_word_beyond(task_of, rate):
    """The budget is rate x tokens that may be chosen, rounded up or down so that its mean is just that."""
    masked, budget = 0, 0.0
    for row, chosen in spans_of(task_of(mask="spans", mask_rate=rate), rows_of()):
        free = np.count_nonzero(~np.isin(row["input_ids"], SPECIAL))
        longest = max(map(len, words_of(row["begins"])))
        assert int(rate * free) <= np.count_nonzero(chosen) <= int(rate * free) + longest
        masked, budget = masked + np.count_nonzero(chosen), budget + rate * free
    assert 0 <= (masked - budget) / ROWS < 1.5, "the rest of the last word, which has two tokens on average"


def test_the_budget_of_short_samples_is_rounded_so_that_its_mean_is_the_rate():
    begins, count = np.ones(10, bool), 4000
    draws = [words32(10, seed) for seed in range(count)]
    masked = [_mask_selection.spans(d, begins, begins, 0.15, 0.2, 10)[0].sum() for d in draws]
    assert set(masked) == {1, 2}
    assert stats.binomtest(int(sum(masked)) - count, count, 0.5).pvalue > P_VALUE


def test_spans_begin_anywhere_alike():
    begins = np.ones(40, bool)
    firsts = []
    for seed in range(4000):
        chosen, owner = _mask_selection.spans(words32(40, seed), begins, begins, 0.025, 0.9, 1)
        firsts += owner[chosen].tolist()
    assert stats.chisquare(np.bincount(firsts, minlength=40)).pvalue > P_VALUE


def test_no_span_without_free_tokens():
    draws = words32(5, 0)
    for begins, free in ((np.ones(5, bool), np.zeros(5, bool)), (np.zeros(5, bool), np.ones(5, bool))):
        chosen, owner = _mask_selection.spans(draws, begins, free, 0.9, 0.2, 10)
        assert not chosen.any()
        assert owner.tolist() == list(range(5))
    none = np.zeros(0, bool)
    assert _mask_selection.spans(words32(0, 0), none, none, 0.5, 0.2, 10)[0].shape == (0,)


def test_a_span_is_replaced_as_a_whole_in_the_shares_of_the_split(task_of):
    """Each token of a span becomes the mask, or each a random one, or each stays: by the span's first token."""
    split, rows = (0.5, 0.3, 0.2), rows_of(400)
    samples, counts = drawn(task_of(mask="spans", mask_rate=0.15, split=split), rows), [0, 0, 0]
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        draws = random.draws(5, Stream.MASK, 0, number, np.arange(LENGTH) + 2**31)
        free = ~np.isin(row["input_ids"], SPECIAL)
        chosen, owner = _mask_selection.spans(draws, row["begins"], free, 0.15, 0.2, 10)
        assert np.array_equal(chosen, sample["labels"] != IGNORE)
        for first in np.unique(owner[chosen]):
            here = chosen & (owner == first)
            now, was = sample["input_ids"][here], row["input_ids"][here]
            kind = 0 if np.all(now == MASK) else 2 if np.all(now == was) else 1
            if kind == 1 and len(now) > 2:
                assert np.mean(now == MASK) < 0.5 and np.mean(now == was) < 0.5
            counts[kind] += 1
    assert stats.chisquare(counts, np.array(split) * sum(counts)).pvalue > P_VALUE


# What they are functions of


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 11), max_size=6), st.integers(0, 2**40), st.integers(0, 2**40))
@pytest.mark.parametrize("mask", ["words", "spans"])
def test_the_mask_does_not_depend_on_the_batch(task_of, mask, numbers, epoch, seed):
    task, rows = task_of(mask=mask, mask_rate=0.3), rows_of(12, 30)
    for number, row in enumerate(rows):
        rows[number] = {name: value[: 12 + number] if name != "length" else 12 + number for name, value in row.items()}
    whole = drawn(task, rows, epoch, seed)
    part = drawn(task, [rows[n] for n in numbers], epoch, seed, ids=numbers)
    for number, sample in zip(numbers, part, strict=True):
        assert all(np.array_equal(sample[name], whole[number][name]) for name in sample)


@pytest.mark.parametrize("mask", ["words", "spans"])
@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 6}, {"ids": range(ROWS, 2 * ROWS)}], ids=str)
def test_another_epoch_seed_or_id_gives_an_independent_mask(task_of, mask, change):
    task, rows = task_of(mask=mask), rows_of()
    change = {name: list(value) if name == "ids" else value for name, value in change.items()}
    one, other = (
        np.stack([sample["labels"] != IGNORE for sample in drawn(task, rows, **where)])[:, 1:-1:8]
        for where in ({}, change)
    )
    table = [[np.sum((one == a) & (other == b)) for b in (False, True)] for a in (False, True)]
    assert stats.chi2_contingency(table).pvalue > P_VALUE


@pytest.mark.parametrize("mask", ["words", "spans"])
def test_a_schedule_moves_the_rate_of_words_and_spans_too(task_of, mask):
    task, rows = task_of(mask=mask, mask_rate={"start": 0.5, "end": 0.1}), rows_of()
    for progress, rate in ((0.0, 0.5), (0.5, 0.3), (1.0, 0.1)):
        labels = np.stack([sample["labels"] for sample in drawn(task, rows, progress=progress)])[:, 1:-1]
        assert np.mean(labels != IGNORE) == pytest.approx(rate, abs=0.012)


def test_masking_leaves_rows_unchanged(task_of):
    rows = rows_of(5)
    rows[0]["begins"][0] = False
    before = [{name: np.copy(value) for name, value in row.items()} for row in rows]
    for mask in ("tokens", "words", "spans"):
        drawn(task_of(mask=mask), rows)
    assert all(np.array_equal(row[name], old[name]) for row, old in zip(rows, before, strict=True) for name in row)
