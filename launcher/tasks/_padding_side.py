"""How the models of a task take rows of different lengths."""

from typing import TYPE_CHECKING, Any

from launcher.config.errors import Problem, UserError
from launcher.plan import _tiny_model
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.padding_probe import Padding

if TYPE_CHECKING:
    import torch


def equal_lengths(task: Any, model: "torch.nn.Module", need: ModelRequirements) -> bool:
    """Whether the samples of a micro-batch have to be of one length: padding changes the outputs of the model, or of
    one that the attached task holds beside it. A model of which no copy can be tried counts as one that may be padded.
    Raises UserError where samples have two lengths."""
    models = [model, *task.frozen_models()]
    if all(_side(one, need) is Padding.RIGHT for one in models):
        return False
    if need.auto_class == "AutoModelForSeq2SeqLM":
        what = f"padding changes the outputs of {type(model).__name__}, whose samples have two lengths"
        raise UserError(Problem("model", f"{what} (take another model)"))
    return True


def _side(model: "torch.nn.Module", need: ModelRequirements) -> Padding:
    try:
        return _tiny_model.padding(model, need) or Padding.RIGHT
    except UserError:  # which the plan reports; a model that has been trained computes its samples
        return Padding.RIGHT
