"""How a task's models take rows of different lengths."""

from typing import TYPE_CHECKING, Any

from launcher.plan import padding
from launcher.plan.padding import Padding
from launcher.tasks import Batch

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


def found(task: Any, model: "torch.nn.Module", batch: Batch, facts: "Facts") -> Padding:
    """The side on which the rows of a micro-batch may be padded: for the bare model, and for the models that the task
    holds beside it. `batch`: its first sample is tried, and is the longest of it. Rows that samples share are masked
    sample by sample, and tried by `_packed`. Raises UserError (see launcher.plan.padding)."""
    inputs = batch.get("inputs")
    if not isinstance(inputs, dict) or "input_ids" not in inputs or "documents" in batch:
        return Padding.RIGHT
    sample = {name: values[:1] for name, values in inputs.items()}
    models = [model, *(task.frozen_models() if hasattr(task, "frozen_models") else [])]
    sides = {padding.probe(one, sample, facts.pad_token_id, facts.longest) for one in models}
    return sides.pop() if len(sides) == 1 else Padding.NONE


def notes(model: "torch.nn.Module", side: Padding) -> list[str]:
    """What the user should know of it."""
    if side is Padding.RIGHT:
        return []
    return [f"{type(model).__name__}: padding changes its outputs, so a micro-batch has samples of one length"]
