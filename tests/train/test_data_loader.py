"""A rank's batches: the same samples with the same masks however they share rows, ranks and micro-batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.contract import digest
from launcher.contract.order import Order
from launcher.contract.random import Stream
from launcher.plan.facts import Facts
from launcher.tasks import IGNORE, causal_lm, mlm
from launcher.train.batch_loader import BatchLoader
from launcher.train.data_loader import RankBatches

LONGEST, COUNT = 40, 300
FACTS = Facts(
    digest="", vocab_size=90, pad_token_id=0, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], labels=[], longest=LONGEST,
    samples={}, tokens={}, baseline={},
)  # fmt: skip

properties = settings(deadline=None, max_examples=40)


class Memory:
    """Prepared samples of 1 to 40 tokens, most of them short."""

    def __init__(self):
        draw = np.random.default_rng(0)
        sizes = np.minimum(LONGEST, 1 + draw.geometric(0.12, COUNT))
        self.tokens = [draw.integers(5, 90, size).astype(np.uint16) for size in sizes]

    def lengths(self, ids):
        return np.array([len(self.tokens[i]) for i in ids], dtype=np.int64)

    def rows(self, ids):
        tokens = [self.tokens[i] for i in ids]
        return [{"input_ids": one, "begins": np.ones(len(one), bool), "length": len(one)} for one in tokens]


MEMORY = Memory()
TASKS = {kind: module.Task(module.Config(samples="packed"), FACTS) for kind, module in
         (("mlm", mlm), ("causal_lm", causal_lm))}  # fmt: skip


def made(kind="mlm", packed=True, world=1, global_batch=24, max_tokens=None, **more):
    known = RankBatches(
        MEMORY, Order(COUNT, 3), TASKS[kind], global_batch, 3, Stream.MASK, 0, world, max_tokens,
        LONGEST if packed else None,
    )  # fmt: skip
    return replace(known, **more)


def _labels(batch):
    return np.concatenate([one["labels"] for one in batch.micro_batches])


def test_a_step_past_the_last_one_is_masked_at_the_last_rate():
    """`launcher tune` measures more steps than a short run has."""
    config = mlm.Config(mask_rate={"start": 0.6, "end": 0.1})
    short, long = (made(packed=False, task=mlm.Task(config, FACTS), steps=steps) for steps in (2, 10**9))
    steady = made(packed=False, task=mlm.Task(mlm.Config(mask_rate=0.1), FACTS))
    for step in (2, 4):
        labels, expected = (_labels(batches[step]) for batches in (short, steady))
        assert np.array_equal(labels, expected)
    assert len(_labels(long[4])) > len(expected)


def shares(batches, step):
    """The batches of every rank."""
    return [replace(batches, rank=rank)[step] for rank in range(batches.world)]


def witness(every):
    return (
        digest.total([batch.digest for batch in every]),
        sum(batch.weight for batch in every),
        sum(batch.tokens for batch in every),
    )


def rows_of(batch):
    """For each micro-batch its tokens, shape (rows, longest), and the number of the document of each."""
    return [(m["inputs"]["input_ids"], m.get("documents")) for m in batch.micro_batches]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("max_tokens", [None, 40, 100])
def test_packed_rows_are_the_same_samples_with_the_same_masks(kind, world, max_tokens):
    for step in (0, 1, 40):
        alone = witness(shares(made(kind, packed=False), step))
        assert witness(shares(made(kind, world=world, max_tokens=max_tokens), step)) == alone
        assert witness(shares(made(kind, packed=False, world=world, max_tokens=max_tokens), step)) == alone


shapes = {
    "step": st.integers(0, 50), "world": st.integers(1, 6), "global_batch": st.integers(1, 40),
    "max_tokens": st.one_of(st.none(), st.integers(LONGEST, 200)), "packed": st.booleans(),
}  # fmt: skip


@properties
@given(**shapes)
def test_every_rank_has_as_many_micro_batches_and_the_loss_of_each_sample_once(
    step, world, global_batch, max_tokens, packed
):
    every = shares(made(world=world, global_batch=global_batch, max_tokens=max_tokens, packed=packed), step)
    assert len({len(batch.micro_batches) for batch in every}) == 1
    assert witness(every) == witness(shares(made(global_batch=global_batch, packed=False), step))
    for batch in every:
        labels = torch.cat([micro["labels"] for micro in batch.micro_batches])
        assert int((labels != IGNORE).sum()) == batch.weight


@properties
@given(**shapes)
def test_what_is_padded_is_what_the_model_computes(step, world, global_batch, max_tokens, packed):
    for batch in shares(made(world=world, global_batch=global_batch, max_tokens=max_tokens, packed=packed), step):
        sizes = [ids.numel() for ids, _ in rows_of(batch)]
        assert batch.padded == sum(sizes) >= batch.tokens
        assert max_tokens is None or max(sizes) <= max_tokens


@properties
@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 40))
def test_no_row_is_longer_than_it_may_be_and_each_holds_whole_samples(step, world, global_batch):
    batches = made("causal_lm", world=world, global_batch=global_batch)
    found = []
    for batch in shares(batches, step):
        if not batch.tokens:
            continue  # a rank without a row holds a sample without weight
        for ids, documents in rows_of(batch):
            assert ids.shape[1] <= LONGEST
            for row, numbers in zip(ids, documents, strict=True):
                found += [tuple(row[numbers == n].tolist()) for n in range(1, int(numbers.max()) + 1)]
    _, expected = batches.order.step(step, global_batch)
    assert sorted(found) == sorted(tuple(MEMORY.tokens[i].tolist()) for i in expected)


def test_rows_fill_more_of_what_is_computed_than_padded_samples():
    for world in (1, 2, 4):
        fills = []
        for packed in (True, False):
            every = shares(made(packed=packed, world=world, global_batch=64), 0)
            fills.append(sum(batch.tokens for batch in every) / sum(batch.padded for batch in every))
        assert fills[0] > 0.9 > fills[1]


def test_a_rank_without_a_sample_holds_one_without_weight():
    every = shares(made(world=4, global_batch=2), 0)
    idle = [batch for batch in every if not batch.tokens]
    assert len(idle) >= 2
    for batch in idle:
        assert (batch.weight, batch.digest) == (0, 0)
        assert batch.padded > 0
        (micro,) = batch.micro_batches
        assert "documents" in micro
        assert (micro["labels"] == IGNORE).all()


def test_the_example_is_the_same_on_every_rank_and_shaped_as_a_row():
    first, *others = [replace(made(world=3), rank=rank).probe_batches().one.batch for rank in range(3)]
    assert all(torch.equal(other["inputs"]["input_ids"], first["inputs"]["input_ids"]) for other in others)
    assert first["documents"].unique().tolist() == [1]
    assert "documents" not in made(packed=False).probe_batches().one.batch


class StoppedBeforeTraining:
    """A task that keeps what its samples were drawn with."""

    def __init__(self):
        self.draws = []

    def samples(self, rows, epochs, ids, draw):
        self.draws.append(draw)
        return TASKS["mlm"].samples(rows, epochs, ids, draw)

    def __getattr__(self, name):
        return getattr(TASKS["mlm"], name)


def test_a_sample_is_drawn_with_the_part_of_the_steps_that_is_done():
    task = StoppedBeforeTraining()
    training = made(task=task, steps=8)
    for step in (0, 2, 6):
        training[step]
    assert [(draw.seed, draw.stream, draw.progress) for draw in task.draws] == [
        (3, Stream.MASK, 0.0), (3, Stream.MASK, 0.25), (3, Stream.MASK, 0.75),
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lower_limit_holds_from_the_next_batch_on(workers):
    """Of the same samples; also where processes have computed ahead."""
    batches, found = BatchLoader(made(world=2, max_tokens=80), 5, 9, workers, pin=False), []
    for batch in batches:
        found.append(batch)
        if len(found) == 2:
            assert batches.lower(40) and not batches.lower(60)
    assert [max(batch.positions) <= 40 for batch in found] == [False, False, True, True]
    assert [batch.digest for batch in found] == [made(world=2, max_tokens=80)[step].digest for step in range(5, 9)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_yields_the_batches_of_its_steps_in_order(workers):
    batches = made(world=2, max_tokens=80)
    found = [(b.digest, b.padded) for b in BatchLoader(batches, 5, 9, workers, pin=False)]
    assert found == [(batches[step].digest, batches[step].padded) for step in range(5, 9)]
