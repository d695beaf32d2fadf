"""A probe for the side on which rows may be padded. It runs a model, and needs no table of model names.

If a model pools the last position, or mixes positions without a mask, a padded sample has another output. The
micro-batches of such a model hold samples of one length.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Maximum relative difference between the logits of a sample alone and in a padded row, in fp32."""
_LONGEST = 4096
"""Tokens of the longest row of the probe."""
_SHORTEST = 3
"""Tokens of the shortest row of the probe. In a longer row, padding does not affect the first token if a model mixes
neighbours only."""
_PER_TOKEN = ("input_ids", "token_type_ids")


def note(name: str) -> str:
    """Return the remark on a model whose outputs change with padding."""
    return f"{name}: padding changes its outputs, so a micro-batch has samples of one length"


class Padding(StrEnum):
    """Side on which padding changes no output: `RIGHT`, also if both sides are possible, `LEFT` or `NONE`."""

    RIGHT = "right"
    LEFT = "left"
    NONE = "none"


def probe(model: "torch.nn.Module", inputs: Mapping[str, "torch.Tensor"], pad_token_id: int, longest: int) -> Padding:
    """Return the side on which rows of a model may be padded. The call may change the model: pass a copy.

    `inputs`: keyword arguments of its forward for one sample, with `input_ids` of shape (1, length). Tokens are
    repeated up to `longest`. A model that cannot run them counts as RIGHT.
    """
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
            usable = [trial for trial in trials if trial.runs_alone()]  # the plan or the first step reports the others
            exact = (side for side in (Padding.RIGHT, Padding.LEFT) if all(trial.is_exact(side) for trial in usable))
            return next(exact, Padding.NONE)
    finally:
        model.train(training)


class _Trial:
    """A comparison of a short row alone with the same row in a batch."""

    def __init__(
        self, model: "torch.nn.Module", inputs: dict[str, "torch.Tensor"], pad_token_id: int, short: int, longest: int
    ):
        self._model, self._pad = model, pad_token_id
        self._tokens = {name: inputs[name] for name in _PER_TOKEN if name in inputs}
        self._other = {k: v for k, v in inputs.items() if k not in (*_PER_TOKEN, "attention_mask")}
        self._longest, self._short = longest, short
        self._alone: list[torch.Tensor] = []

    def runs_alone(self) -> bool:
        """Compute the outputs of the short row. Returns whether the model can run it.

        If a decoder needs them, it gets tokens of its own.
        """
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
        """Return whether a batch with a longer row leaves the output of the short row the same.

        The other row is one token longer in one batch, and the longest in another.
        """
        try:
            return all(self._is_near(self._beside(length, side), side) for length in {self._short + 1, self._longest})
        except Exception:  # the model takes no mask, such as FNet, or one length only
            return False

    def _beside(self, length: int, side: Padding) -> list["torch.Tensor"]:
        """Return the outputs of the short row, padded, in a batch with a row of `length` tokens."""
        from torch.nn.functional import pad

        row, more = self._row(self._short), length - self._short
        ends = (0, more) if side is Padding.RIGHT else (more, 0)
        fill = {"input_ids": self._pad, "token_type_ids": 0}
        padded = {name: pad(values, ends, value=fill[name]) for name, values in row.items()}
        long = self._row(length)
        masks = [pad(row["input_ids"].new_ones(1, self._short), ends), long["input_ids"].new_ones(1, length)]
        return self._outputs([padded | {"attention_mask": masks[0]}, long | {"attention_mask": masks[1]}])

    def _row(self, length: int) -> dict[str, "torch.Tensor"]:
        """Return the sample's tokens, repeated, with its last token at the end. Shape (1, length).

        Some models pool the last token.
        """
        row = {}
        for name, values in self._tokens.items():
            body = values[:, : max(1, values.shape[1] - 1)]
            row[name] = body.repeat(1, -(-length // body.shape[1]))[:, :length].clone()
            row[name][:, -1] = values[:, -1]
        return row

    def _outputs(self, rows: list[dict[str, "torch.Tensor"]]) -> list["torch.Tensor"]:
        """Return the logits of rows of one length, or the tensor that a plain module returns."""
        import torch

        inputs = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        other = {name: value.repeat(len(rows), *[1] * (value.ndim - 1)) for name, value in self._other.items()}
        output = self._model(**inputs, **other)
        if isinstance(output, torch.Tensor):
            return [output]
        return [value for name, value in output.items() if name.endswith("logits")]

    def _is_near(self, outputs: list["torch.Tensor"], side: Padding = Padding.RIGHT) -> bool:
        """Return whether the first row has the outputs of the short row alone, at its own tokens."""
        return all(_near(alone, found[:1], side) for alone, found in zip(self._alone, outputs, strict=True))


def _near(alone: "torch.Tensor", padded: "torch.Tensor", side: Padding) -> bool:
    if padded.shape != alone.shape:
        length = alone.shape[1]
        padded = padded[:, :length] if side is Padding.RIGHT else padded[:, -length:]
    return bool((padded - alone).abs().max() <= TOLERANCE * alone.abs().max())
