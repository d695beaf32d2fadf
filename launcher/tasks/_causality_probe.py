"""Whether a model predicts tokens from those before them alone: tried, not listed."""

from typing import TYPE_CHECKING

from launcher.config.errors import Problem, UserError

if TYPE_CHECKING:
    import torch

_FEW = 64
"""Tokens that are enough to see whether a model looks ahead: one among thousands would hardly show."""


def check(model: "torch.nn.Module", tokens: "torch.Tensor") -> None:
    """Raises UserError for a model that looks ahead. tokens: shape (samples, length)."""
    if looks_ahead(model, tokens):
        what = f"{type(model).__name__} sees the tokens that it should predict (a decoder such as gpt2 does not)"
        raise UserError(Problem("model", what))


def looks_ahead(model: "torch.nn.Module", tokens: "torch.Tensor") -> bool:
    """Whether another last token changes what the model says of those before it, by more than rounding: a new model
    says little of anything, so this is seen beside the change at the token itself. tokens: shape (samples, length)."""
    import torch

    training = model.training
    model.eval()
    few = tokens[:, :_FEW] if tokens.shape[1] > 1 else tokens.repeat(1, 2)
    other = few.clone()
    other[:, -1] = (other[:, -1] + 1) % model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        change = (model(input_ids=few).logits - model(input_ids=other).logits).abs()
    model.train(training)
    return bool(change[:, :-1].max() > 1e-5 * change[:, -1].max())
