"""Evaluation: outputs for every validation sample, gathered in the order of the samples.

Micro-batches depend only on the lengths of the samples, and each is computed as a whole by one rank. So the same
samples are computed together on any number of ranks, and the metrics do not depend on this number.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from launcher.contract.random import Draw, Stream
from launcher.contract.split import micro_batches, rows_without_padding
from launcher.distributed.process_group import ProcessGroup
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.tasks import Batch, BatchOutputs, Outputs, Sample, Task, _token_batches
from launcher.train.copy_ahead import HostCopies
from launcher.train.data_loader import tensors, to
from launcher.train.padding_masks import padding_is_known
from launcher.train.precision import autocast

_SAMPLES = 32
"""Maximum samples of a micro-batch of a small validation set. It is small, so that the set is spread over the ranks."""
_PIECES = 512
"""Number of micro-batches from which on a larger validation set has more samples in each, up to the token budget."""
_AHEAD = 2
"""Number of micro-batches whose outputs may be on their way to the host."""


class Part(NamedTuple):
    """A micro-batch and the ids of its samples. `ids` is empty if the rank computes the batch only because all ranks
    need the same number of batches."""

    ids: NDArray[np.int64]
    batch: Batch


@dataclass(frozen=True)
class Parts(Dataset[Part]):  # type: ignore[misc]
    """This rank's micro-batches of the validation samples.

    `joined`: the task packs rows. `first`: the id of the first sample, for random draws; above 0 for a later part of a
    set. `equal_lengths`: all samples of a micro-batch have the same length. `padding_free`: samples of different
    lengths are put side by side in one row instead of padded; then the task packs none.
    """

    samples: PreparedSamples
    task: Task
    seed: int
    rank: int
    world: int
    max_tokens: int | None
    joined: bool = False
    first: int = 0
    equal_lengths: bool = False
    padding_free: bool = False

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        return self.samples.lengths(np.arange(len(self.samples)))

    @cached_property
    def pieces(self) -> list[NDArray[np.int64]]:
        """The samples of each micro-batch of all ranks, the longest first. The budget is `max_tokens`; without it,
        the tokens of `_SAMPLES` samples of maximum length."""
        lengths, order = self.lengths, np.argsort(-self.lengths, kind="stable")
        budget = self.max_tokens or _SAMPLES * max(1, int(lengths.max(initial=1)))
        most = max(_SAMPLES, len(lengths) // _PIECES)
        if self.padding_free:
            return rows_without_padding(order, lengths, budget, most)
        if not (self.joined or self.equal_lengths):  # the budget counts padding
            lengths = _token_batches.padded_lengths(lengths, self.task.length_multiple, self.task.facts.longest)
        return micro_batches(order, lengths, budget, self.equal_lengths, most)

    def __len__(self) -> int:
        return -(-len(self.pieces) // self.world)

    def __getitem__(self, turn: int) -> Part:
        if not 0 <= turn < len(self):
            raise IndexError(turn)
        number = turn * self.world + self.rank
        ids = self.pieces[number] if number < len(self.pieces) else np.empty(0, dtype=np.int64)
        shown = ids if len(ids) else self.pieces[-1][:1]
        samples = self._samples(shown)
        return Part(ids, self._batch(shown, samples if len(ids) else [self.task.zero_weight(one) for one in samples]))

    def padded(self, ids: NDArray[np.int64]) -> Batch:
        """Return a micro-batch of these samples in padded rows."""
        return replace(self, padding_free=False)._batch(ids, self._samples(ids))

    def side_by_side(self, ids: NDArray[np.int64]) -> Batch:
        """Return a micro-batch of these samples in one row without padding."""
        return tensors(self.task.concatenate(self._samples(ids)))

    def _samples(self, ids: NDArray[np.int64]) -> list[Sample]:
        draw = Draw(self.seed, Stream.EVALUATE)
        return self.task.samples(self.samples.rows(ids), [0] * len(ids), (ids + self.first).tolist(), draw)

    def _batch(self, ids: NDArray[np.int64], samples: list[Sample]) -> Batch:
        """Return a micro-batch. Samples of equal length need no padding, and keep a row each."""
        if self.padding_free and len(np.unique(self.lengths[ids])) > 1:
            return tensors(self.task.concatenate(samples))
        return tensors(self.task.collate([self.task.pack([one]) for one in samples] if self.joined else samples))


class BatchPredictor(Protocol):
    """A task, or a replacement for one in an evaluation."""

    def predict(self, model: torch.nn.Module, batch: Batch) -> BatchOutputs:
        """Return the outputs for a micro-batch (see launcher.tasks.Task.predict)."""

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        """Return outputs in their final form, given those with tensors on the host."""


@dataclass(frozen=True)
class Generating:
    """A task whose outputs include generated token ids. `model`: the unwrapped model, whole on this rank."""

    task: Task
    model: torch.nn.Module

    def predict(self, model: torch.nn.Module, batch: Batch) -> BatchOutputs:
        return {**self.task.predict(model, batch), "generated": self.task.generate(self.model, batch)}

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        return self.task.host_outputs(outputs)


def outputs(
    model: torch.nn.Module, task: BatchPredictor, parts: Iterable[Part], process: ProcessGroup, precision: str
) -> Outputs:
    """Return the outputs for all samples, in the order of the samples, on every rank.

    Outputs are copied to the host while the next micro-batches compute. The host waits only for a copy that was begun
    `_AHEAD` micro-batches before.
    """
    ids, begun, mine = list[int](), list[_OutputCopies](), Outputs()

    def collect(copies: _OutputCopies) -> None:
        for name, values in task.host_outputs(copies.received()).items():
            mine.setdefault(name, []).extend(_rows(values))

    training = model.training
    model.eval()
    with torch.no_grad(), autocast(precision, process.device):
        for part in parts:
            with padding_is_known(part.batch):
                predictions = task.predict(model, to(part.batch, process.device))
            if len(part.ids):
                ids += part.ids.tolist()
                begun.append(_OutputCopies.begin(predictions, process.device))
            if len(begun) > _AHEAD:
                collect(begun.pop(0))
    for copies in begun:
        collect(copies)
    model.train(training)
    gathered = process.all_gather_objects((ids, mine) if process.leads else None)
    parts_of_ranks = [part for part in gathered if part is not None and part[0]]
    return _in_order(
        [sample for ids_of_rank, _ in parts_of_ranks for sample in ids_of_rank], [part for _, part in parts_of_ranks]
    )


@dataclass(frozen=True)
class _OutputCopies:
    """Outputs on their way to the host. `others`: those that are no tensors; `names`: of the tensors."""

    others: BatchOutputs
    names: list[str]
    copies: HostCopies

    @classmethod
    def begin(cls, outputs: BatchOutputs, device: torch.device) -> "_OutputCopies":
        """Begin to copy the tensors, half precision as fp32."""
        tensors = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
        others = {name: value for name, value in outputs.items() if name not in tensors}
        copies = HostCopies.begin(map(_without_half_precision, tensors.values()), device)
        return cls(others, [*tensors], copies)

    def received(self) -> BatchOutputs:
        """Wait for the copies, and return all outputs."""
        return {**self.others, **dict(zip(self.names, self.copies.received(), strict=True))}


def _without_half_precision(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values  # numpy has no bf16


def _rows(values: Any) -> list[Any]:
    """Return outputs on the host as a list of one value or array for each sample."""
    if isinstance(values, torch.Tensor):
        array = values.numpy()
        return array.tolist() if array.ndim == 1 else list(array.copy())  # pinned memory is for the next outputs
    return list(values)


def _in_order(ids: list[int], parts: list[Outputs]) -> Outputs:
    """Return the outputs of all ranks joined in the order of the sample ids. `ids`: those of the samples in `parts`."""
    order = np.argsort(np.array(ids, dtype=np.int64), kind="stable").tolist()
    joined = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    return {name: [values[index] for index in order] for name, values in joined.items()}
