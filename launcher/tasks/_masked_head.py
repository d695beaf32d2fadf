"""Computation of the language-model head on the masked positions only.

A forward hook on `model.base_model` replaces the last hidden state, shape (B, L, H), by the masked positions, shape (1,
n, H), so that the model's own head runs only on these. `attach` tests whether the logits remain the same.
"""

from typing import TYPE_CHECKING, Any

import torch

from launcher.tasks import _model_probes, _token_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedHead:
    """The forward hook. `places`: flat indices into (B, L), to be set before a forward; None: the hook has no
    effect."""

    def __init__(self, model: "PreTrainedModel"):
        self.places: torch.Tensor | None = None
        self._handle = model.base_model.register_forward_hook(self._select)

    def remove(self) -> None:
        self._handle.remove()

    def _select(self, module: torch.nn.Module, arguments: object, output: Any) -> object:
        if self.places is None:
            return output
        rows = output[0].flatten(0, 1).index_select(0, self.places).unsqueeze(0)
        if isinstance(output, tuple):
            return (rows, *output[1:])
        output[next(iter(output.keys()))] = rows
        return output


def logits(
    model: torch.nn.Module, inputs: dict[str, Any], places: torch.Tensor, head: MaskedHead | None
) -> torch.Tensor:
    """Return the model's logits at `places`, shape (n, classes), in at least fp32. head: None: compute the logits of
    all positions and select."""
    if head is None:
        return _token_batches.full_precision(_selected(model(**inputs).logits, places))
    head.places = places
    try:
        sparse: torch.Tensor = model(**inputs).logits
    finally:
        head.places = None
    return _token_batches.full_precision(sparse[0])


@torch.no_grad()  # type: ignore[untyped-decorator]
def attach(model: "PreTrainedModel", inputs: dict[str, Any], places: torch.Tensor) -> MaskedHead | None:
    """Attach the hook to the model and return it. Returns None, and attaches nothing, if the hook would change the
    logits."""
    if model.base_model is model:
        return None
    training = model.training
    model.eval()
    expected = _selected(model(**inputs).logits, places)
    head = MaskedHead(model)
    try:
        head.places = places
        sparse = model(**inputs).logits
        off = _model_probes.rounding(expected.device, 1e-4)
        exact = sparse.shape == (1, *expected.shape) and torch.allclose(sparse[0], expected, rtol=off, atol=off)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError):
        exact = False
    head.places = None
    model.train(training)
    if not exact:
        head.remove()
        return None
    return head


def _selected(dense: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return dense.flatten(0, 1).index_select(0, places)
