"""Estimate of the fraction of the positions in a batch that hold tokens, not padding."""

import numpy as np

from launcher.config.recipe import Recipe
from launcher.contract.packing import capacity, pack
from launcher.contract.split import split
from launcher.plan.facts import Facts


def expected(recipe: Recipe, facts: Facts, ranks: int) -> float | None:
    """Return the fraction for a step whose lengths are distributed as in the corpus; None: not known yet.

    With `train.padding_free: auto`, rows are assumed to be padded, because the model is tested when the run starts.
    """
    if not facts.lengths:
        return None
    if recipe.train.padding_free is True:
        return 1.0
    lengths = _typical(facts.lengths, recipe.train.global_batch)
    shares = max(1, ranks // recipe.tensor_parallel)
    if recipe.packed:
        rows = pack(lengths, capacity(lengths, shares, recipe.data.max_length))
        row_lengths = np.array([lengths[row].sum() for row in rows])
    else:
        row_lengths = lengths
    pieces = [piece for share in split(row_lengths, shares, recipe.train.max_tokens) for piece in share if len(piece)]
    return float(lengths.sum() / sum(len(piece) * row_lengths[piece].max() for piece in pieces))


def _typical(counts: dict[int, int], number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return `number` lengths at even quantiles of the corpus' distribution."""
    lengths = np.array(sorted(counts), dtype=np.int64)
    cumulative = np.cumsum([counts[length] for length in lengths.tolist()])
    quantiles = (np.arange(number) + 0.5) / number * cumulative[-1]
    typical: np.ndarray[tuple[int], np.dtype[np.int64]] = lengths[np.searchsorted(cumulative, quantiles)]
    return typical
