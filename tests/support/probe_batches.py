"""Micro-batches to try a model on, from two samples, without a run."""

import numpy as np
import torch

from launcher.contract.dropout import sample_keys, step_key
from launcher.train.data_loader import ProbeBatch, ProbeBatches, tensors
from launcher.train.sample_rows import SampleRows


def rows(numbers, seed=0):
    """What rows are whose samples have these numbers."""
    step = torch.from_numpy(step_key(seed, 0))
    return SampleRows(torch.from_numpy(sample_keys(seed, np.zeros_like(numbers), numbers)), step)


def of(task, short, long=None, seed=0):
    """The trials of a task; `long`: the same as `short` where it is not given."""
    long = short if long is None else long

    def made(samples, *numbers):
        return ProbeBatch(tensors(task.collate(samples)), rows(np.array(numbers), seed))

    return ProbeBatches(
        one=made([short], 0),
        two=made([short, short], 0, 1),
        packed=None,
        short=made([short], 3),
        long=made([long], 4),
        together=made([short, long], 3, 4),
    )
