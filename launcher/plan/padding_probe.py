"""On which side rows of different lengths may be padded: found by trying a model, never kept in a table of names.

A model that pools the last position, or that mixes positions without a mask, gives a padded sample another output than
the same sample alone. Its samples share a micro-batch only where they have one length.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""The largest relative difference between the logits of a sample alone and in a padded row, in fp32."""
_LONGEST = 4096
"""Tokens of the longest row that is tried."""
_SHORTEST = 3
"""Tokens of the shortest row that is tried. Where neighbours alone are mixed, a longer row's first token sees none."""
_PER_TOKEN = ("input_ids", "token_type_ids")


def note(name: str) -> str:
    """What the user should know of a model of this class, which sees padding on the right."""
    return f"{name}: padding changes its outputs, so a micro-batch has samples of one length"


class Padding(StrEnum):
    """`RIGHT`, `LEFT`: the side on which padding changes no output, the right one where both are. `NONE`: neither."""

    RIGHT = "right"
    LEFT = "left"
    NONE = "none"


def probe(model: "torch.nn.Module", inputs: Mapping[str, "torch.Tensor"], pad_token_id: int, longest: int) -> Padding:
    """Try a model, which may keep what it is given: a copy, then. `inputs`: keyword arguments of its forward for one
    sample, `input_ids` of shape (1, length); its tokens are repeated up to `longest`. A model that cannot be run like
    this counts as RIGHT."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            longest = max(2, min(longest, _LONGEST))
            half = (longest + 1) // 2
            trials = [
                _Trial(model, dict(inputs), pad_token_id, short, longest) for short in {min(_SHORTEST, half), half}
            ]
            there = [trial for trial in trials if trial.runs_alone()]  # others: the plan, or the first step, reports it
            exact = (side for side in (Padding.RIGHT, Padding.LEFT) if all(trial.is_exact(side) for trial in there))
            return next(exact, Padding.NONE)
    finally:
        model.train(training)


class _Trial:
    """A short row alone, and beside other rows."""

    def __init__(
        self, model: "torch.nn.Module", inputs: dict[str, "torch.Tensor"], pad_token_id: int, short: int, longest: int
    ):
        self._model, self._pad = model, pad_token_id
        self._tokens = {name: inputs[name] for name in _PER_TOKEN if name in inputs}
        self._other = {k: v for k, v in inputs.items() if k not in (*_PER_TOKEN, "attention_mask")}
        self._longest, self._short = longest, short
        self._alone: list[torch.Tensor] = []

    def runs_alone(self) -> bool:
        """Compute the outputs of the short row; a decoder that needs tokens of its own is given some."""
        import torch

        row = self._row(self._short)
        for given in ({}, {"decoder_input_ids": torch.full_like(row["input_ids"][:, :4], self._pad)}):
            self._other |= given
            try:
                self._alone = self._outputs([row])
                return bool(self._alone)
            except Exception:
                continue
        return False

    def is_exact(self, side: Padding) -> bool:
        """Whether the short row has the same output beside a row of one token more, and beside the longest."""
        try:
            return all(self._is_near(self._beside(length, side), side) for length in {self._short + 1, self._longest})
        except Exception:  # a model without a mask, such as FNet, or of one length alone
            return False

    def _beside(self, length: int, side: Padding) -> list["torch.Tensor"]:
        """The outputs of the short row, padded, and of a row of `length`."""
        from torch.nn.functional import pad

        row, more = self._row(self._short), length - self._short
        ends = (0, more) if side is Padding.RIGHT else (more, 0)
        fill = {"input_ids": self._pad, "token_type_ids": 0}
        padded = {name: pad(values, ends, value=fill[name]) for name, values in row.items()}
        long = self._row(length)
        there = [pad(row["input_ids"].new_ones(1, self._short), ends), long["input_ids"].new_ones(1, length)]
        return self._outputs([padded | {"attention_mask": there[0]}, long | {"attention_mask": there[1]}])

    def _row(self, length: int) -> dict[str, "torch.Tensor"]:
        """The sample's tokens, repeated, with its last one at the end (some models read the output there). Shape
        (1, length) each."""
        row = {}
        for name, values in self._tokens.items():
            body = values[:, : max(1, values.shape[1] - 1)]
            row[name] = body.repeat(1, -(-length // body.shape[1]))[:, :length].clone()
            row[name][:, -1] = values[:, -1]
        return row

    def _outputs(self, rows: list[dict[str, "torch.Tensor"]]) -> list["torch.Tensor"]:
        """The logits, or the tensor that a plain module returns, of rows of one length."""
        import torch

        given = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        other = {name: value.repeat(len(rows), *[1] * (value.ndim - 1)) for name, value in self._other.items()}
        output = self._model(**given, **other)
        if isinstance(output, torch.Tensor):
            return [output]
        return [value for name, value in output.items() if name.endswith("logits")]

    def _is_near(self, outputs: list["torch.Tensor"], side: Padding = Padding.RIGHT) -> bool:
        """Whether the first row has the outputs of the short row alone, at its own tokens."""
        return all(_near(alone, found[:1], side) for alone, found in zip(self._alone, outputs, strict=True))


def _near(alone: "torch.Tensor", found: "torch.Tensor", side: Padding) -> bool:
    if found.shape != alone.shape:
        length = alone.shape[1]
        found = found[:, :length] if side is Padding.RIGHT else found[:, -length:]
    return bool((found - alone).abs().max() <= TOLERANCE * alone.abs().max())
