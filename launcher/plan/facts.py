"""What preparation found out about the data: the part of a prepared folder that plans and tasks need."""

import json
from pathlib import Path
from typing import Literal

from launcher.config.types import Strict

Side = Literal["train", "validation"]


class Facts(Strict):
    """`digest` names the content; `samples` and `tokens` by side; `baseline` is what frequencies alone would reach."""

    digest: str
    vocab_size: int
    pad_token_id: int
    mask_token_id: int | None
    special_ids: list[int]
    labels: list[str]
    longest: int
    samples: dict[str, int]
    tokens: dict[str, int]
    baseline: dict[str, float]


def read(folder: Path) -> Facts:
    """The facts of a prepared folder."""
    return Facts.model_validate(json.loads((folder / "facts.json").read_text(encoding="utf-8")))
