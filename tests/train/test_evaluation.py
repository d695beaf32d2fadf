"""What a model makes of the validation samples does not know on how many ranks, or in what micro-batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.train import evaluation
from launcher.train.evaluation import Parts

PROCESS = SimpleNamespace(device=torch.device("cpu"), leads=True, all_gather_objects=lambda value: [value])


class Memory:
    """Samples of these lengths."""

    def __init__(self, lengths):
        self._lengths = np.array(lengths, dtype=np.int64)

    def __len__(self):
        return len(self._lengths)

    def lengths(self, ids):
        return self._lengths[np.asarray(ids, dtype=np.int64)]

    def rows(self, ids):
        return [{"length": int(self._lengths[i]), "id": int(i)} for i in ids]


class Task:
    """The model is given each sample's number; a muted one is told apart."""

    length_multiple, facts = 1, SimpleNamespace(longest=64)

    def samples(self, rows, epochs, ids, draw):
        assert epochs == [0] * len(rows)
        assert ids == [row["id"] for row in rows]
        assert draw.progress == 1.0
        return [{"id": np.array(row["id"])} for row in rows]

    def zero_weight(self, sample):
        return {"id": np.array(-1)}

    def pack(self, samples):
        return {"id": samples[0]["id"]}

    def collate(self, samples):
        return {"id": np.array([int(sample["id"]) for sample in samples])}

    def concatenate(self, samples):
        return {"id": np.array([int(sample["id"]) for sample in samples]), "row": np.ones(1)}

    def predict(self, model, batch):
        ids = batch["id"]
        return {"twice": 2 * ids, "row": torch.stack([ids, ids], 1), "list": ids}

    def host_outputs(self, outputs):
        return {**outputs, "list": [[int(one)] * int(one % 3) for one in outputs["list"]]}


def parts(lengths, rank=0, world=1, max_tokens=None, **more):
    return Parts(Memory(lengths), Task(), 0, rank, world, max_tokens, **more)


def ran(every):
    """The outputs of all ranks, as each of them gets them."""
    told = []
    for mine in every:
        model, process = torch.nn.Linear(1, 1), SimpleNamespace(device=torch.device("cpu"), leads=True)
        process.all_gather_objects = lambda value: told.append(value) or [value]
        if any(len(part.ids) for part in mine):
            evaluation.outputs(model, mine.task, mine, process, "fp32")
    process = SimpleNamespace(device=torch.device("cpu"), leads=True, all_gather_objects=lambda value: told)
    return evaluation.outputs(torch.nn.Linear(1, 1), Task(), every[0], process, "fp32")


some = st.lists(st.integers(1, 40), min_size=1, max_size=150)


@settings(deadline=None, max_examples=30)
@given(some, st.integers(1, 5), st.sampled_from([None, 40, 100]), st.sampled_from(["alone", "joined", "padding_free"]))
def test_outputs_stand_in_the_order_of_the_samples_on_any_number_of_ranks(lengths, world, max_tokens, rows):
    made = ran(
        [parts(lengths, rank, world, max_tokens, **{rows: True} if rows != "alone" else {}) for rank in range(world)]
    )
    assert made["twice"] == [2 * n for n in range(len(lengths))]
    assert [row.tolist() for row in made["row"]] == [[n, n] for n in range(len(lengths))]
    assert made["list"] == [[n] * (n % 3) for n in range(len(lengths))]


@settings(deadline=None, max_examples=30)
@given(some, st.integers(1, 5), st.sampled_from([None, 40, 100]))
def test_micro_batches_are_those_of_one_rank_and_every_rank_computes_as_many(lengths, world, max_tokens):
    alone = [piece.tolist() for piece in parts(lengths, max_tokens=max_tokens).pieces]
    every = [parts(lengths, rank, world, max_tokens) for rank in range(world)]
    dealt = [mine[turn].ids.tolist() for turn in range(len(every[0])) for mine in every]
    assert [piece for piece in dealt if piece] == alone
    assert len({len(mine) for mine in every}) == 1


@settings(deadline=None, max_examples=30)
@given(some, st.sampled_from([40, 64, 100]))
def test_a_micro_batch_keeps_to_the_budget_and_to_its_size(lengths, max_tokens):
    for piece in parts(lengths, max_tokens=max_tokens).pieces:
        longest = max(lengths[n] for n in piece)
        assert len(piece) * longest <= max_tokens
        assert len(piece) <= 32


@settings(deadline=None, max_examples=30)
@given(some, st.sampled_from([None, 40, 64, 100]), st.integers(1, 5))
def test_without_padding_the_budget_counts_tokens_and_ranks_have_as_many_micro_batches(lengths, max_tokens, world):
    alone = parts(lengths, max_tokens=max_tokens, padding_free=True)
    for piece in alone.pieces:
        assert sum(lengths[n] for n in piece) <= (max_tokens or 32 * max(lengths))
        assert len(piece) <= 32
    every = [parts(lengths, rank, world, max_tokens, padding_free=True) for rank in range(world)]
    dealt = [mine[turn].ids.tolist() for turn in range(len(every[0])) for mine in every]
    assert [piece for piece in dealt if piece] == [piece.tolist() for piece in alone.pieces]
    counts = [sum(len(part.ids) > 0 for part in mine) for mine in every]
    assert max(counts) - min(counts) <= 1


def test_only_samples_of_different_lengths_share_a_row():
    made = list(parts([9, 9, 9, 5, 4], max_tokens=27, padding_free=True))
    assert [(part.ids.tolist(), "row" in part.batch) for part in made] == [([0, 1, 2], False), ([3, 4], True)]


def test_the_budget_counts_the_padding_to_a_multiple(monkeypatch):
    """With rows of a multiple of 64, samples of 20 tokens take 64 each."""
    monkeypatch.setattr(Task, "length_multiple", 64)
    assert [len(piece) for piece in parts([64] + [20] * 9, max_tokens=256).pieces] == [4, 4, 2]


def test_many_samples_fill_the_token_budget():
    """The longest decide on the budget, and short samples are many in a micro-batch."""
    pieces = parts([64] * 32 + [2] * (512 * 128)).pieces
    assert [len(pieces[0]), len(pieces[1])] == [32, 128]
    assert all(len(piece) * (64 if number == 0 else 2) <= 32 * 64 for number, piece in enumerate(pieces))


def test_outputs_are_copied_while_the_next_micro_batches_compute(monkeypatch):
    """The device takes part as an accelerator does: copies are awaited two micro-batches later."""
    events, copy, predict = [], torch.Tensor.to, Task.predict

    class Stream:
        ends = 0

        def record_event(self):
            Stream.ends += 1
            return SimpleNamespace(synchronize=lambda number=Stream.ends: events.append(f"wait {number}"))

    def to(tensor, *target, **how):
        if target == ("cpu",):
            events.append("copy" if how == {"non_blocking": True} else "blocking copy")
        return copy(tensor, "cpu", **how)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Stream())
    monkeypatch.setattr(Task, "predict", lambda *given: events.append("predict") or predict(*given))
    process = SimpleNamespace(**{**vars(PROCESS), "device": torch.device("cuda", 0)})
    made = evaluation.outputs(torch.nn.Linear(1, 1), Task(), parts([9] * 128), process, "fp32")
    assert made["twice"] == [2 * n for n in range(128)]
    step = ["predict", "copy", "copy", "copy"]
    assert events == [*step, *step, *step, "wait 1", *step, "wait 2", "wait 3", "wait 4"]


def test_masks_are_built_without_a_look_at_the_device(monkeypatch):
    """As in training: transformers reads whether a padding mask masks anything."""
    from transformers import masking_utils

    found, predict = [], Task.predict
    monkeypatch.setattr(masking_utils, "_ignore_bidirectional_mask_sdpa", lambda mask, *more: found.append(mask))

    def masked(*given):
        masking_utils._ignore_bidirectional_mask_sdpa(torch.ones(1, 2), 2)
        return predict(*given)

    monkeypatch.setattr(Task, "predict", masked)
    evaluation.outputs(torch.nn.Linear(1, 1), Task(), parts([9]), PROCESS, "fp32")
    assert found == []


def test_outputs_keep_no_pinned_memory():
    """They are kept until the end, and another micro-batch shall have its memory."""
    pinned = torch.ones(2, 3)
    assert not any(np.shares_memory(row, pinned.numpy()) for row in evaluation._rows(pinned))


def test_a_rank_without_samples_computes_a_muted_one():
    idle = parts([3, 4], rank=1, world=2)[0]
    assert len(idle.ids) == 0
    assert idle.batch["id"].tolist() == [-1]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = torch.nn.Linear(1, 1).train(training)
    evaluation.outputs(model, Task(), parts([1, 2]), PROCESS, "bf16")
    assert model.training is training
