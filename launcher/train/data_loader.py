"""A rank's share of the global batches, as a pure function of the step.

There is no state, because step t is computed from t alone. So a resume needs no position, and loader workers may
compute later steps in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from launcher.contract import digest, dropout
from launcher.contract.packing import capacity, pack
from launcher.contract.random import Draw, Stream
from launcher.contract.split import split
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.tasks import Batch, Sample, Task, _token_batches
from launcher.train import sample_rows
from launcher.train.rank_batch import RankBatch
from launcher.train.sample_rows import SampleRows

Ids = NDArray[np.int64]
_FIRST = np.zeros(1, dtype=np.int64)
"""A row of the first sample only, which replaces the rows of a micro-batch that has none."""


@dataclass(frozen=True)
class ProbeBatch:
    """A micro-batch, with the samples in its rows."""

    batch: Batch
    rows: SampleRows

    def to(self, device: torch.device) -> "ProbeBatch":
        return ProbeBatch(to(self.batch, device), self.rows.to(device))


@dataclass(frozen=True)
class ProbeBatches:
    """Micro-batches of few samples, for tests of a model.

    `one`: one sample; `two`: two rows with this sample; `packed`: one row with the sample twice, if samples share rows.
    `short`, `long`: one sample each, with the largest difference in length that a micro-batch may have; `together`:
    both samples in one micro-batch.
    """

    one: ProbeBatch
    two: ProbeBatch
    packed: ProbeBatch | None
    short: ProbeBatch
    long: ProbeBatch
    together: ProbeBatch

    def to(self, device: torch.device) -> "ProbeBatches":
        return ProbeBatches(**{name: one and one.to(device) for name, one in vars(self).items()})


class Order(Protocol):
    """The order of the samples over a run."""

    def step(self, step: int, global_batch: int) -> tuple[Ids, Ids]:
        """Return the epochs and the ids of the samples of a step, each of shape (global_batch,)."""


@dataclass(frozen=True)
class RankBatches(Dataset[RankBatch]):  # type: ignore[misc]
    """A rank's shares of the global batches, by step.

    `order`: selects the samples of a step; `task`: converts them to model inputs. `row`: maximum tokens of a row that
    samples share; None: each sample has its own row. `steps`: number of steps of the whole run. `equal_lengths`: all
    samples of a micro-batch have the same length. `padding_free`: samples of different lengths are put side by side in
    one row instead of padded.
    """

    samples: PreparedSamples
    order: Order
    task: Task
    global_batch: int
    seed: int
    stream: Stream
    rank: int
    world: int
    max_tokens: int | None
    row: int | None = None
    steps: int | None = None
    equal_lengths: bool = False
    padding_free: bool = False

    def __getitem__(self, step: int) -> RankBatch:
        chosen = self._choose(step)
        return self._load(self._shares(chosen)[self.rank], chosen)

    def largest(self, steps: Sequence[int]) -> RankBatch:
        """Return a share with one micro-batch: the one that computes most positions of these steps, over all ranks."""
        sizes = list[tuple[int, int, int, int]]()
        for step in steps:
            chosen = self._choose(step)
            for rank, share in enumerate(self._shares(chosen)):
                pieces = [(self._positions(rows or [_FIRST], chosen.lengths), n) for n, rows in enumerate(share)]
                sizes += [(-max(pieces)[0], step, rank, max(pieces)[1])] if pieces else []
        _, step, rank, number = min(sizes)
        chosen = self._choose(step)
        return self._load([self._shares(chosen)[rank][number]], chosen)

    @property
    def longest_row(self) -> int:
        """Maximum number of positions of a row with one sample, or of a row that samples share."""
        return self.task.facts.longest if self.row is None else self.row

    def _load(self, share: list[list[Ids]], chosen: "_ChosenSamples") -> RankBatch:
        """Return the batch of these rows of each micro-batch."""
        drawn = self._draw(share, chosen)
        keys, lengths = dropout.sample_keys(self.seed, chosen.epochs, chosen.ids), chosen.lengths
        own = lengths[np.array([*drawn], dtype=np.int64)]
        filled = [rows or [_FIRST] for rows in share]
        positions = tuple(self._positions(rows, lengths) for rows in filled)
        return RankBatch(
            micro_batches=[self._collate(rows, drawn, chosen) for rows in share],
            rows=[self._sample_rows(rows, keys, lengths, chosen.step) for rows in filled],
            weight=float(sum(self.task.weight(sample) for sample in drawn.values())),
            digest=_digest(drawn, chosen),
            tokens=int(own.sum()),
            squares=int(np.square(own).sum()),
            padded=sum(positions),
            positions=positions,
        )

    def _choose(self, step: int) -> "_ChosenSamples":
        epochs, ids = self.order.step(step, self.global_batch)
        return _ChosenSamples(step, epochs, ids, self.samples.lengths(ids))

    def _shares(self, chosen: "_ChosenSamples") -> list[list[list[Ids]]]:
        """Return the rows of each micro-batch of each rank, the longest first. A row is an array of the places of its
        samples. A micro-batch may have no rows."""
        rows = self._rows(chosen.lengths)
        row_lengths = np.array([chosen.lengths[row].sum() for row in rows], dtype=np.int64)
        if self.row is None and not self.equal_lengths and not self.padding_free:
            row_lengths = _token_batches.padded_lengths(
                row_lengths, self.task.length_multiple, self.task.facts.longest
            )  # the budget counts padding
        shares = split(row_lengths, self.world, self.max_tokens, self.equal_lengths, self.padding_free)
        return [[[rows[row] for row in piece] for piece in pieces] for pieces in shares]

    def _draw(self, share: list[list[Ids]], chosen: "_ChosenSamples") -> dict[int, Sample]:
        """Return the samples of the share, by place."""
        places = np.concatenate([*(row for rows in share for row in rows), np.empty(0, dtype=np.int64)])
        samples = self._samples(chosen.epochs[places], chosen.ids[places], chosen.step)
        return dict(zip(places.tolist(), samples, strict=True))

    def _collate(self, rows: list[Ids], drawn: dict[int, Sample], chosen: "_ChosenSamples") -> Batch:
        """Return a micro-batch with these rows; for no rows, with a sample without weight."""
        group = [self._join([drawn[place] for place in row.tolist()]) for row in rows]
        if self._side_by_side(rows, chosen.lengths):
            return tensors(self.task.concatenate(group))
        return tensors(self.task.collate(group or [self._join([self._blank(chosen)])]))

    def _side_by_side(self, rows: list[Ids], lengths: Ids) -> bool:
        """Return whether to put the samples of a micro-batch into one row. Samples of equal length need no padding, and
        keep a row each."""
        return self.padding_free and len({lengths[row].sum() for row in rows}) > 1

    def _positions(self, rows: list[Ids], lengths: Ids) -> int:
        """Return the number of positions that the model computes for a micro-batch."""
        of_rows = np.array([lengths[row].sum() for row in rows])
        if self._side_by_side(rows, lengths):
            return int(of_rows.sum())
        alone = self.row is None
        return len(rows) * (
            _token_batches.padded_length(of_rows, self.task.length_multiple, self.task.facts.longest)
            if alone
            else int(of_rows.max())
        )

    def probe_batches(self) -> ProbeBatches:
        """Return small micro-batches for tests of a model, the same on every rank."""
        epochs, ids = self.order.step(0, max(2, self.global_batch))
        lengths = self.samples.lengths(ids)
        ends = self._pair(lengths)
        pair = list(self._samples(epochs[ends], ids[ends], 0))
        pair_keys, pair_lengths = dropout.sample_keys(self.seed, epochs[ends], ids[ends]), lengths[ends]
        copies = [self._samples(epochs[:1], ids[:1], 0)[0]] * 2
        copy_keys, copy_lengths = dropout.sample_keys(self.seed, 0, np.arange(2)), np.repeat(lengths[:1], 2)

        def batch_of(rows: list[list[int]], samples: list[Sample], keys: Ids, lengths: Ids) -> ProbeBatch:
            if self.padding_free and len(rows[0]) > 1:
                batch, owners = self.task.concatenate(samples), [np.array([place]) for place in rows[0]]
                return ProbeBatch(tensors(batch), sample_rows.side_by_side(owners, keys, lengths, self._step_key(0)))
            batch = self.task.collate([self._join([samples[n] for n in row]) for row in rows])
            return ProbeBatch(tensors(batch), self._sample_rows([np.array(row) for row in rows], keys, lengths, 0))

        shared = self.row is not None or self.padding_free
        together = [[0, 1]] if shared else [[0], [1]]
        return ProbeBatches(
            one=batch_of([[0]], copies, copy_keys, copy_lengths),
            two=batch_of([[0], [1]], copies, copy_keys, copy_lengths),
            packed=batch_of([[0, 1]], copies, copy_keys, copy_lengths) if shared else None,
            short=batch_of([[0]], pair, pair_keys, pair_lengths),
            long=batch_of([[1]], pair, pair_keys, pair_lengths),
            together=batch_of(together, pair, pair_keys, pair_lengths),
        )

    def _pair(self, lengths: Ids) -> Ids:
        """Return the indices of two samples that may share a micro-batch.

        They are the shortest and the longest sample; if all samples of a micro-batch need equal lengths, two of the
        same length, or one twice.
        """
        if not self.equal_lengths:
            return np.array([lengths.argmin(), len(lengths) - 1 - lengths[::-1].argmax()])
        values, counts = np.unique(lengths, return_counts=True)
        return np.resize(np.flatnonzero(lengths == values[counts.argmax()]), 2)

    def shown(self, step: int, count: int) -> list[Sample]:
        """Return the first `count` samples of a step, in the order of the batch, for display."""
        epochs, ids = self.order.step(step, self.global_batch)
        return list(self._samples(epochs[:count], ids[:count], step))

    def _rows(self, lengths: Ids) -> list[Ids]:
        """Return the indices of the samples of each row."""
        if self.row is None:
            return list(np.arange(len(lengths)).reshape(-1, 1))
        return pack(lengths, capacity(lengths, self.world, self.row))

    def _sample_rows(self, owners: list[Ids], keys: Ids, lengths: Ids, step: int) -> SampleRows:
        """Return the samples in the rows of a micro-batch. `owners`: for each row the indices of its samples in `keys`
        and `lengths`."""
        of_step = self._step_key(step)
        if self._side_by_side(owners, lengths):
            return sample_rows.side_by_side(owners, keys, lengths, of_step)
        if self.row is None:
            return sample_rows.by_row(owners, keys, of_step)
        return sample_rows.by_token(owners, keys, lengths, of_step)

    def _step_key(self, step: int) -> torch.Tensor:
        return torch.from_numpy(dropout.step_key(self.seed, step))

    def _join(self, samples: list[Sample]) -> Sample:
        return samples[0] if self.row is None else self.task.pack(samples)

    def _samples(self, epochs: Ids, ids: Ids, step: int) -> list[Sample]:
        progress = 1.0 if self.steps is None else min(1.0, step / self.steps)  # `tune` may go on past the last step
        draw = Draw(self.seed, self.stream, progress)
        return self.task.samples(self.samples.rows(ids), epochs.tolist(), ids.tolist(), draw)

    def _blank(self, chosen: "_ChosenSamples") -> Sample:
        """Return the first sample without weight, for a rank that has fewer micro-batches than others."""
        return self.task.zero_weight(self._samples(chosen.epochs[:1], chosen.ids[:1], chosen.step)[0])


@dataclass(frozen=True)
class _ChosenSamples:
    """The samples of a step's global batch: epochs, ids, and lengths in tokens, each of shape (global_batch,). A
    sample's place is its index in these arrays."""

    step: int
    epochs: Ids
    ids: Ids
    lengths: Ids


def _digest(drawn: dict[int, Sample], chosen: _ChosenSamples) -> int:
    """Return the digest of a share. `drawn`: the samples of the share, by place."""
    hashes = [
        digest.sample(place, int(chosen.epochs[place]), int(chosen.ids[place]), sample)
        for place, sample in drawn.items()
    ]
    return digest.total(hashes)


def to(batch: Batch, device: torch.device) -> Batch:
    """Return a micro-batch copied to a device."""

    def copy(value: object) -> object:
        if isinstance(value, dict):
            return to(value, device)
        return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value

    return {name: copy(value) for name, value in batch.items()}


def tensors(batch: Batch) -> Batch:
    """Return a micro-batch of numpy arrays as tensors, which share the memory of the arrays. Other values stay."""

    def convert(value: object) -> object:
        if isinstance(value, dict):
            return tensors(value)
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    return {name: convert(value) for name, value in batch.items()}
