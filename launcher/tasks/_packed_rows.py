"""Several documents in one row, each attended to by itself and with positions of its own.

Whether a model computes in a row what it computes for each document alone is tried, not listed: on a tiny copy for the
plan, on the model itself before the first step.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.config.errors import Problem, UserError, first_line
from launcher.tasks import Batch, Sample, _token_batches

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""The largest relative difference of logits between documents in a row and documents alone, in fp32."""


def join(samples: Sequence[Sample]) -> Sample:
    """Documents as one row, with the number of each (from 1) and the positions in it."""
    lengths = [len(sample["input_ids"]) for sample in samples]
    row: Sample = {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}
    row["document"] = np.repeat(np.arange(1, len(samples) + 1), lengths)
    row["position"] = np.concatenate([np.arange(length) for length in lengths])
    return row


def inputs(rows: Sequence[Sample], pad_token_id: int) -> Batch:
    """The rows padded; what the padding is made of is document 0, which no other attends to."""
    ids = _token_batches.pad([row["input_ids"] for row in rows], pad_token_id)
    batch: Batch = {"input_ids": ids, "position_ids": _token_batches.pad([row["position"] for row in rows], 0)}
    return {"inputs": batch, "documents": _token_batches.pad([row["document"] for row in rows], 0)}


class Packing:
    """What it takes to run packed rows through a model; made from the bare one."""

    def __init__(self, model: Any, causal: bool):
        self._config, self._dtype, self._causal = model.config, next(model.parameters()).dtype, causal
        self._first = _first_position(model)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The keyword arguments of the model's forward. As they are for a batch without packed rows."""
        if "documents" not in batch:
            return dict(batch["inputs"])
        inputs = batch["inputs"]
        positions = inputs["position_ids"] if self._first == 0 else _counted(**inputs, padding=self._first - 1)
        return {**inputs, "position_ids": positions, "attention_mask": self._mask(batch["documents"])}

    def _mask(self, documents: "torch.Tensor") -> Any:
        """Which positions see each other: transformers' own mask for each kind of layer, inside documents."""
        import torch
        from transformers import masking_utils as make

        makers = {
            ("full_attention", False): make.create_bidirectional_mask,
            ("full_attention", True): make.create_causal_mask,
            ("sliding_attention", False): make.create_bidirectional_sliding_window_mask,
            ("sliding_attention", True): make.create_sliding_window_causal_mask,
        }
        like = torch.empty((*documents.shape, 1), dtype=self._dtype, device=documents.device)
        given: dict[str, Any] = {"config": self._config, "inputs_embeds": like, "attention_mask": None}
        if self._causal:
            given["past_key_values"] = None
        given["and_mask_function"] = make.packed_sequence_mask_function(documents)
        every = "sliding_attention" if getattr(self._config, "sliding_window", None) else "full_attention"
        kinds = sorted(set(getattr(self._config, "layer_types", None) or [every]))
        masks = {kind: makers[kind, self._causal](**given) for kind in kinds}
        return masks if len(masks) > 1 else masks[kinds[0]]


def attach(model: Any, batch: Batch, pad_token_id: int, causal: bool) -> Packing:
    """Tried on the sample of a batch, as two documents. Raises UserError where the model takes none."""
    ids = batch["inputs"]["input_ids"][0]
    third = max(1, len(ids) // 3)
    training = model.training
    model.eval()
    what = refusal(model, [one for one in (ids[:third], ids[third:]) if len(one)], pad_token_id, causal)
    model.train(training)
    if what:
        raise UserError(Problem("task.samples", f"{what} (take documents)"))
    return Packing(model, causal)


def refusal(model: Any, documents: "Sequence[torch.Tensor]", pad_token_id: int, causal: bool) -> str | None:
    """Why a model (in eval mode) cannot be given packed rows; None: its logits are those of each document alone.
    `documents`: token ids, each of shape (length,)."""
    import torch

    name = type(model).__name__
    row = join([{"input_ids": one.cpu().numpy()} for one in documents])
    batch = {k: _tensors(v, documents[0].device) for k, v in inputs([row], pad_token_id).items()}
    with torch.no_grad():
        alone = torch.cat([model(input_ids=one[None]).logits[0] for one in documents])
        try:
            together = model(**Packing(model, causal).inputs(batch)).logits[0]
        except Exception as error:  # whatever a model raises that was not made for it
            return f"{name} takes no packed rows: {first_line(error)[:160]}"
    off = float((together - alone).abs().max() / alone.abs().max())
    if not off <= TOLERANCE:
        return f"{name} does not keep the documents of a packed row apart: its logits are {off:.1g} off"
    return None


def _tensors(value: Any, device: Any) -> Any:
    import torch

    if isinstance(value, dict):
        return {name: _tensors(inner, device) for name, inner in value.items()}
    return torch.from_numpy(value).to(device)


def _counted(input_ids: "torch.Tensor", position_ids: "torch.Tensor", padding: int) -> "torch.Tensor":
    """Positions as RoBERTa and its like count them in each document: a padding token, which masking may have put there,
    is not counted."""
    import torch

    there = (input_ids != padding).long()
    total = there.cumsum(1)
    first = torch.arange(there.shape[1], device=there.device) - position_ids
    return (total - (total - there).gather(1, first)) * there + padding


def _first_position(model: Any) -> int:
    """The number of the first position: RoBERTa and its like count from above the padding index."""
    import torch

    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, torch.nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
