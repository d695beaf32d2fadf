"""The language-model head on the masked positions alone, in one place for every architecture.

A forward hook on `model.base_model` replaces the last hidden state (B, L, H) by the rows that are to be predicted,
(1, n, H); the model's own head then runs on those. Whether that is exact for an architecture is tried, not listed.
"""

from typing import Any

import torch


class MaskedHead:
    """Set `places` (flat indices into B x L) before a forward; None gives the model as it is."""

    def __init__(self, model: torch.nn.Module):
        self.places: torch.Tensor | None = None
        self._handle = model.base_model.register_forward_hook(self._select)

    def remove(self) -> None:
        self._handle.remove()

    def _select(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if self.places is None:
            return output
        hidden = output[0]
        rows = hidden.flatten(0, 1).index_select(0, self.places).unsqueeze(0)
        if isinstance(output, tuple):
            return (rows, *output[1:])
        output[next(iter(output.keys()))] = rows
        return output


def logits(model: Any, inputs: dict[str, Any], places: torch.Tensor, head: MaskedHead | None) -> torch.Tensor:
    """The model's logits at places alone, shape (n, classes): by way of its head, or picked out of all of them."""
    if head is None:
        dense: torch.Tensor = model(**inputs).logits
        return dense.flatten(0, 1).index_select(0, places)
    head.places = places
    try:
        sparse: torch.Tensor = model(**inputs).logits
    finally:
        head.places = None
    return sparse[0]


@torch.no_grad()  # type: ignore[untyped-decorator]
def attach(model: torch.nn.Module, inputs: dict[str, torch.Tensor], places: torch.Tensor) -> MaskedHead | None:
    """The hook, or None where the model's logits with it are not those without it."""
    if model.base_model is model:
        return None
    training = model.training
    model.eval()
    dense = model(**inputs).logits
    head = MaskedHead(model)
    try:
        head.places = places
        sparse = model(**inputs).logits
        expected = dense.flatten(0, 1).index_select(0, places).unsqueeze(0)
        exact = sparse.shape == expected.shape and torch.allclose(sparse, expected, rtol=1e-4, atol=1e-4)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError):
        exact = False
    head.places = None
    model.train(training)
    if not exact:
        head.remove()
        return None
    return head
