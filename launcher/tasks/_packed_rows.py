"""Packed rows: several documents in one row, with separate attention and positions for each document.

A test checks that a model computes the same logits for a document in a packed row and alone. A plan runs it with a tiny
copy of the model, and training runs it with the model itself before the first step.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.config.errors import Problem, UserError, first_line
from launcher.tasks import Batch, Sample, _model_probes, _token_batches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""Maximum relative difference in fp32 between the logits of documents in a packed row and alone."""


def concatenate(samples: Sequence[Sample]) -> Sample:
    """Return documents as one row. `document`: the number of each token's document, from 1; `position`: the token's
    position in it."""
    lengths = [len(sample["input_ids"]) for sample in samples]
    row: Sample = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    row["document"] = np.repeat(np.arange(1, len(samples) + 1), lengths)
    row["position"] = np.concatenate([np.arange(length) for length in lengths])
    return row


def inputs(rows: Sequence[Sample], pad_token_id: int) -> Batch:
    """Return padded rows. Padding has document number 0, so that no document attends to it."""
    ids = _token_batches.pad([row["input_ids"] for row in rows], pad_token_id)
    batch: Batch = {"input_ids": ids, "position_ids": _token_batches.pad([row["position"] for row in rows], 0)}
    return {"inputs": batch, "documents": _token_batches.pad([row["document"] for row in rows], 0)}


class Packing:
    """Forward arguments for packed rows. model: not wrapped by a strategy."""

    def __init__(self, model: "PreTrainedModel", causal: bool):
        self._config, self._dtype, self._causal = model.config, next(model.parameters()).dtype, causal
        self._first = first_position(model)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the keyword arguments of the model's forward; for a batch without packed rows its unchanged
        `inputs`."""
        if "documents" not in batch:
            return dict(batch["inputs"])
        inputs = batch["inputs"]
        positions = positions_of(inputs["input_ids"], inputs["position_ids"], self._first)
        return {**inputs, "position_ids": positions, "attention_mask": self._mask(batch["documents"])}

    def _mask(self, documents: "torch.Tensor") -> "torch.Tensor | dict[str, torch.Tensor]":
        """Return transformers' attention mask, in which each token attends only to its own document. A model with
        layers of several kinds gets a mask for each kind."""
        import torch
        from transformers import masking_utils

        functions = {
            ("full_attention", False): masking_utils.create_bidirectional_mask,
            ("full_attention", True): masking_utils.create_causal_mask,
            ("sliding_attention", False): masking_utils.create_bidirectional_sliding_window_mask,
            ("sliding_attention", True): masking_utils.create_sliding_window_causal_mask,
        }
        like = torch.empty((*documents.shape, 1), dtype=self._dtype, device=documents.device)
        arguments: dict[str, Any] = {"config": self._config, "inputs_embeds": like, "attention_mask": None}
        if self._causal:
            arguments["past_key_values"] = None
        arguments["and_mask_function"] = masking_utils.packed_sequence_mask_function(documents)
        default = "sliding_attention" if getattr(self._config, "sliding_window", None) else "full_attention"
        kinds = sorted(set(getattr(self._config, "layer_types", None) or [default]))
        masks = {kind: functions[kind, self._causal](**arguments) for kind in kinds}
        return masks if len(masks) > 1 else masks[kinds[0]]


def prepare(model: "PreTrainedModel", batch: Batch, pad_token_id: int, causal: bool) -> Packing:
    """Return the forward arguments of a model for packed rows, after a test of the model. Raises UserError if it cannot
    take packed rows. batch: its first sample is tested as two documents."""
    ids = batch["inputs"]["input_ids"][0]
    third = max(1, len(ids) // 3)
    training = model.training
    model.eval()
    what = packing_error(model, [one for one in (ids[:third], ids[third:]) if len(one)], pad_token_id, causal)
    model.train(training)
    if what:
        raise UserError(Problem("task.samples", f"{what} (take documents)"))
    return Packing(model, causal)


def packing_error(
    model: "PreTrainedModel", documents: "Sequence[torch.Tensor]", pad_token_id: int, causal: bool
) -> str | None:
    """Return the reason why a model cannot take packed rows; None: its logits equal those of each document alone.
    model: in eval mode. documents: token ids, each of shape (length,)."""
    import torch

    name = type(model).__name__
    row = concatenate([{"input_ids": one.cpu().numpy()} for one in documents])
    batch = {k: _tensors(v, documents[0].device) for k, v in inputs([row], pad_token_id).items()}
    with torch.no_grad():
        alone = torch.cat([model(input_ids=one[None]).logits[0] for one in documents])
        try:
            together = model(**Packing(model, causal).inputs(batch)).logits[0]
        except Exception as error:  # a model without support for packed rows may raise anything
            return f"{name} takes no packed rows: {first_line(error)[:160]}"
    off = float((together - alone).abs().max() / alone.abs().max())
    if not off <= _model_probes.rounding(documents[0].device, TOLERANCE):
        return f"{name} does not keep the documents of a packed row apart: its logits are {off:.1g} off"
    return None


def _tensors(value: Any, device: "torch.device") -> Any:
    import torch

    if isinstance(value, dict):
        return {name: _tensors(inner, device) for name, inner in value.items()}
    return torch.from_numpy(value).to(device)


def positions_of(input_ids: "torch.Tensor", position_ids: "torch.Tensor", first: int) -> "torch.Tensor":
    """Return the positions as a model counts them, shape (rows, length). position_ids: positions within each document,
    from 0; first: the model's `first_position`."""
    return position_ids if first == 0 else _roberta_positions(input_ids, position_ids, padding=first - 1)


def _roberta_positions(input_ids: "torch.Tensor", position_ids: "torch.Tensor", padding: int) -> "torch.Tensor":
    """Return positions within each document as RoBERTa-like models count them, shape (rows, length).

    Padding tokens are not counted and have the position `padding`. They may also occur inside a document, as random
    tokens of masking. padding: the id of the padding token.
    """
    import torch

    counted = (input_ids != padding).long()
    total = counted.cumsum(1)
    first = torch.arange(counted.shape[1], device=counted.device) - position_ids
    return (total - (total - counted).gather(1, first)) * counted + padding


def first_position(model: "PreTrainedModel") -> int:
    """Return the number of the first position: the padding index plus 1 for RoBERTa-like models, else 0."""
    import torch

    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, torch.nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
