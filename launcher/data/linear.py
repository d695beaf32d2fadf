"""Points around a known plane, y = w x + b + noise, for tests of regression."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from launcher import data
from launcher.contract.random import Stream, draws, uniform
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._files import row_ranges
from launcher.data._source import check_fixed_columns, fixed_row

_BATCH = 2**14
"""Points that are drawn together."""


class Config(SourceConfig):
    """A linear function with noise, y = w x + b + noise, for x uniform in [-1, 1)."""

    kind: Literal["linear"] = "linear"
    weights: list[float] = Field([3.0], min_length=1)
    """Weight of each feature."""
    bias: float = 0.0
    """Constant term."""
    noise: float = Field(0.1, ge=0)
    """Standard deviation of the noise."""
    rows: int = Field(1000, gt=0)
    """Number of rows."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the rows."""


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        config = self.config
        return f"linear {config.weights} {config.bias} {config.noise} {config.rows} {config.seed}"

    def parts(self, key: str) -> list[Part]:
        return row_ranges(self.config.rows, 8 * len(self.config.weights) + 8)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        check_fixed_columns(self.config, columns, ("features", "label"), key)
        stop = self.config.rows if part.stop is None else part.stop
        for start in range(part.start, stop, _BATCH):
            numbers = np.arange(start, min(start + _BATCH, stop))
            x, y = _points(self.config, numbers)
            for number, features, label in zip(numbers.tolist(), x.tolist(), y.tolist(), strict=True):
                yield fixed_row({"features": features, "label": label}, columns, f"point {number}")


def _points(config: Config, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute x, shape (points, features), and y, shape (points,).

    A point depends on its number only. The noise is computed as by Box and Muller (1958).
    """
    count = len(config.weights)
    words, others, _, _ = draws(config.seed, Stream.POINTS, 0, numbers[:, None], np.arange(count + 1))
    x = 2 * uniform(words[:, :count]) - 1
    normal = np.sqrt(-2 * np.log1p(-uniform(words[:, count]))) * np.cos(2 * np.pi * uniform(others[:, count]))
    return x, (x * np.array(config.weights)).sum(1) + config.bias + config.noise * normal
