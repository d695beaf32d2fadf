"""Evaluation: what the model makes of every sample of a side, gathered in the order of the samples.

Samples are cut into micro-batches by their lengths alone, and whole micro-batches are dealt to the ranks: the same
samples are computed together however many ranks there are, so that a metric does not know of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from launcher.contract.random import Draw, Stream
from launcher.contract.split import micro_batches
from launcher.distributed.process_group import ProcessGroup
from launcher.prepare.samples import Samples
from launcher.tasks import Batch, Outputs, Task
from launcher.train.data_loader import tensors, to
from launcher.train.precision import autocast

_MOST = 32
"""Samples of a micro-batch: so few that ranks share small sets too."""


class Part(NamedTuple):
    """A micro-batch and its samples: none where this rank only computes along, since all do the same number."""

    ids: NDArray[np.int64]
    batch: Batch


@dataclass(frozen=True)
class Parts(Dataset[Part]):  # type: ignore[misc]
    """This rank's micro-batches of all `samples`. `joined`: samples stand in rows that several may share. `first`: the
    id of the first sample, which what is drawn for it follows, where others were looked at before. `equal_lengths`: the
    samples of a micro-batch have one length."""

    samples: Samples
    task: Task
    seed: int
    rank: int
    world: int
    max_tokens: int | None
    joined: bool = False
    first: int = 0
    equal_lengths: bool = False

    @cached_property
    def pieces(self) -> list[NDArray[np.int64]]:
        """The samples of each micro-batch, of all ranks; the longest first."""
        lengths = self.samples.lengths(np.arange(len(self.samples)))
        return micro_batches(
            np.argsort(-lengths, kind="stable"), lengths, self.max_tokens, self.equal_lengths, most=_MOST
        )

    def __len__(self) -> int:
        return -(-len(self.pieces) // self.world)

    def __getitem__(self, turn: int) -> Part:
        if not 0 <= turn < len(self):
            raise IndexError(turn)
        number = turn * self.world + self.rank
        ids = self.pieces[number] if number < len(self.pieces) else np.empty(0, dtype=np.int64)
        asked = ids if len(ids) else self.pieces[-1][:1]
        draw = Draw(self.seed, Stream.EVALUATE)
        made = self.task.samples(self.samples.rows(asked), [0] * len(asked), (asked + self.first).tolist(), draw)
        made = made if len(ids) else [self.task.zero_weight(one) for one in made]
        return Part(ids, tensors(self.task.collate([self.task.pack([one]) for one in made] if self.joined else made)))


class Predictor(Protocol):
    """A task, or what stands for one in an evaluation."""

    def predict(self, model: torch.nn.Module, batch: Batch) -> dict[str, Any]:
        """The predictions for a micro-batch (see launcher.tasks.Task.predict)."""


@dataclass(frozen=True)
class Generating:
    """A task whose predictions include generated token ids. `model`: the unwrapped model, whole on this rank."""

    task: Task
    model: torch.nn.Module

    def predict(self, model: torch.nn.Module, batch: Batch) -> dict[str, Any]:
        return {**self.task.predict(model, batch), "generated": self.task.generate(self.model, batch)}


def outputs(
    model: torch.nn.Module, task: Predictor, parts: Iterable[Part], process: ProcessGroup, precision: str
) -> Outputs:
    """The predictions for all samples, in the order of the samples, on every rank."""
    ids, mine = list[int](), Outputs()
    training = model.training
    model.eval()
    with torch.no_grad(), autocast(precision, process.device):
        for part in parts:
            made = task.predict(model, to(part.batch, process.device))
            if len(part.ids):
                ids += part.ids.tolist()
                for name, values in made.items():
                    mine.setdefault(name, []).extend(_rows(values))
    model.train(training)
    gathered = process.all_gather_objects((ids, mine) if process.leads else None)
    parts_of_ranks = [part for part in gathered if part is not None and part[0]]
    return _in_order(
        [sample for ids_of_rank, _ in parts_of_ranks for sample in ids_of_rank], [part for _, part in parts_of_ranks]
    )


def _rows(values: Any) -> list[Any]:
    """One value or array for each sample."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
        return values.tolist() if values.ndim == 1 else list(values)
    return list(values)


def _in_order(ids: list[int], every: list[Outputs]) -> Outputs:
    places = np.argsort(np.array(ids, dtype=np.int64), kind="stable").tolist()
    joined = {name: [value for made in every for value in made[name]] for name in every[0]}
    return {name: [values[place] for place in places] for name, values in joined.items()}
