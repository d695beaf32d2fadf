"""What preparation found out about the data: the part of a prepared folder that plans and tasks need."""

import json
from pathlib import Path
from typing import Literal

from launcher.config.types import Strict

Side = Literal["train", "validation"]


class Facts(Strict):
    """`digest` names the content; `documents`, `samples`, `tokens` by side; `baseline` is what frequencies alone would
    reach. `counts`: training samples by label, in the order of `labels`; `sources`: by source, in their order;
    `lengths`: by their tokens. `left_out`: rows that gave no sample, by reason; `token_ids`: of the tokens that the
    task names; `end_token_id`: what stands after a text. `shape`: of one sample where it is no text (it has no
    vocabulary then, and a length of 1), such as (channels, height, width)."""

    digest: str
    vocab_size: int
    pad_token_id: int
    mask_token_id: int | None
    special_ids: list[int]
    end_token_id: int | None = None
    labels: list[str]
    longest: int
    samples: dict[str, int]
    tokens: dict[str, int]
    baseline: dict[str, float]
    documents: dict[str, int] = {}
    counts: list[int] = []
    sources: dict[str, int] = {}
    lengths: dict[int, int] = {}
    left_out: dict[str, int] = {}
    notes: list[str] = []
    token_ids: dict[str, int] = {}
    shape: tuple[int, ...] = ()


def read(folder: Path) -> Facts:
    """The facts of a prepared folder."""
    return Facts.model_validate(json.loads((folder / "facts.json").read_text(encoding="utf-8")))
