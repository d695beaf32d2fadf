"""scikit-learn's 1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, 1998), without a download."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from launcher import data
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._source import check_fixed_columns, fixed_row


class Config(SourceConfig):
    """The digits of scikit-learn."""

    kind: Literal["digits"] = "digits"


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        return "digits 1797"

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        """Yield the digits, their pixels scaled from 0..16 to 0..255."""
        from sklearn.datasets import load_digits

        check_fixed_columns(self.config, columns, ("image", "label"), key)
        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        for number, (image, label) in enumerate(zip(images, digits.target.tolist(), strict=True)):
            yield fixed_row({"image": image, "label": label}, columns, f"digit {number}")
