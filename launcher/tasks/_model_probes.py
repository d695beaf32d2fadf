"""Tests of a model's properties: the model is run, instead of looked up in a list of architectures."""

from typing import TYPE_CHECKING

from launcher.config.errors import Problem, UserError
from launcher.plan import _tiny_model
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.padding_probe import Padding

if TYPE_CHECKING:
    import torch

    from launcher.tasks import Task

_PROBE_TOKENS = 64
"""Maximum length of the probe. Among thousands of tokens, the influence of the last one would be too small to
detect."""


def rounding(device: "torch.device", exact: float) -> float:
    """Return the relative difference that rounding can make between two computations of logits on a device. `exact`:
    the one of fp32; autocast and TF32, if they are in effect, allow more."""
    import torch

    if torch.is_autocast_enabled(device.type):
        return max(exact, {torch.bfloat16: 2**-5, torch.float16: 2**-8}[torch.get_autocast_dtype(device.type)])
    return max(exact, 2**-8) if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32 else exact


def check_causal(model: "torch.nn.Module", tokens: "torch.Tensor") -> None:
    """Check that later tokens do not influence earlier logits. Raises UserError if they do. tokens: shape (samples,
    length)."""
    if looks_ahead(model, tokens):
        what = f"{type(model).__name__} sees the tokens that it should predict (a decoder such as gpt2 does not)"
        raise UserError(Problem("model", what))


def looks_ahead(model: "torch.nn.Module", tokens: "torch.Tensor") -> bool:
    """Return whether the last token influences the logits of earlier tokens by more than rounding.

    The influence is compared with that on the logits of the last token, because all logits of a new model are small.
    tokens: shape (samples, length).
    """
    import torch

    training = model.training
    model.eval()
    probe = tokens[:, :_PROBE_TOKENS] if tokens.shape[1] > 1 else tokens.repeat(1, 2)
    changed = probe.clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        difference = (model(input_ids=probe).logits - model(input_ids=changed).logits).abs()
    model.train(training)
    return bool(difference[:, :-1].max() > rounding(tokens.device, 1e-5) * difference[:, -1].max())


def needs_equal_lengths(task: "Task", model: "torch.nn.Module", requirements: ModelRequirements) -> bool:
    """Return whether padding changes the outputs of the model, or of a frozen model of the task.

    If so, the samples of a micro-batch must have one length. Returns False for a model of which no tiny copy can be
    built. Raises UserError for a sequence-to-sequence model that needs equal lengths, because its samples have two.
    """
    models = [model, *task.frozen_models()]
    if all(_padding(one, requirements) is Padding.RIGHT for one in models):
        return False
    if requirements.auto_class == "AutoModelForSeq2SeqLM":
        what = f"padding changes the outputs of {type(model).__name__}, whose samples have two lengths"
        raise UserError(Problem("model", f"{what} (take another model)"))
    return True


def _padding(model: "torch.nn.Module", requirements: ModelRequirements) -> Padding:
    try:
        return _tiny_model.padding(model, requirements) or Padding.RIGHT
    except UserError:  # the plan reports it; a trained model has taken its samples already
        return Padding.RIGHT
