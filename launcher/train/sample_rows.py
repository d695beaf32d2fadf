"""The samples in the rows of a micro-batch, for their random draws.

`owners`: for each row the indices of its samples in `keys` and `lengths`. `step`: the key of the step, shape (1,).
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.train.counter_dropout import SampleRows

Ids = NDArray[np.int64]


def by_row(owners: list[Ids], keys: Ids, step: torch.Tensor) -> SampleRows:
    """Return the samples of rows with one sample each."""
    return SampleRows(torch.from_numpy(keys[np.concatenate(owners)]), step)


def by_token(owners: list[Ids], keys: Ids, lengths: Ids, step: torch.Tensor) -> SampleRows:
    """Return the samples of the tokens in rows that samples share."""
    tokens = [(np.repeat(keys[row], lengths[row]), [np.arange(n) for n in lengths[row]]) for row in owners]
    longest = max(len(of_tokens) for of_tokens, _ in tokens)
    padded = np.zeros((2, len(owners), longest), dtype=np.int64)
    for number, (of_tokens, positions) in enumerate(tokens):
        padded[0, number, : len(of_tokens)] = of_tokens
        padded[1, number, : len(of_tokens)] = np.concatenate(positions)
    return SampleRows(torch.from_numpy(padded[0]), step, torch.from_numpy(padded[1].astype(np.int32)))


def side_by_side(owners: list[Ids], keys: Ids, lengths: Ids, step: torch.Tensor) -> SampleRows:
    """Return the samples of one row without padding, in the order of `owners`."""
    places = np.concatenate(owners)
    return replace(by_token([places], keys, lengths, step), sequences=torch.from_numpy(keys[places]))
