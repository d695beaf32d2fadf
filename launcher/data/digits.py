"""scikit-learn's 1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, 1998), which are on every machine."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from launcher import data
from launcher.data import BadRow, Part, Row, _own_columns
from launcher.data._source import SourceConfig


class Config(SourceConfig):
    """The digits of scikit-learn."""

    kind: Literal["digits"] = "digits"


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        return "digits 1797"

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        """Their pixels are from 0 to 16, and brought to 0 to 255."""
        from sklearn.datasets import load_digits

        _own_columns.check(self.config, columns, ("image", "label"), key)
        found = load_digits()
        images = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
        for number, (image, label) in enumerate(zip(images, found.target.tolist(), strict=True)):
            yield _own_columns.row({"image": image, "label": label}, columns, f"digit {number}")
