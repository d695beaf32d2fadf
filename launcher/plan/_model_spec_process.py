"""A child process that builds a model on the meta device and describes it as JSON.

Planning imports torch only in this process. The question is on standard input, and the answer on standard output.
Output of libraries goes to standard error, and their standard input is empty.
"""

import json
import os
import sys
from typing import TYPE_CHECKING

from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.config.types import JsonObject
from launcher.plan import _tiny_model, parameter_parts
from launcher.plan.layer_blocks import blocks
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.model_spec import attention_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def main() -> None:
    question, answer = json.loads(sys.stdin.read()), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with open(answer, "w", encoding="utf-8") as out:  # noqa: PTH123
        json.dump(_answer(question), out)


def _answer(question: JsonObject) -> JsonObject:
    import torch

    requirements = ModelRequirements(**question["need"])
    model_module = kinds.module("models", question["model"]["kind"])
    try:
        config = model_module.Config.model_validate(question["model"])
        with torch.device("meta"):
            model, _ = model_module.Model(config).build(requirements, weights=False)
            if config.unfreeze_at:  # memory is highest after this step
                model, _ = model_module.Model(config.at(config.unfreeze_at)).build(requirements, weights=False)
        padding = _tiny_model.padding(model, requirements)
    except UserError as error:
        return {"problems": error.problems}
    hf = getattr(model, "config", None)
    widths = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    layers = [sum(p.numel() for p in block.parameters()) for block in blocks(model)]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "buffers": sum(b.numel() for b in model.buffers()),
        "parts": parameter_parts.count(model),
        "in_layers": sum(layers),
        "largest_layer": max(layers, default=0),
        "largest_parameter": max((p.numel() for p in model.parameters()), default=0),
        **{key: int(getattr(hf, name, 0) or 0) for key, name in widths.items()},
        "attention_dropout": max(attention_dropout(hf).values(), default=0.0),
        "packs": _packs(model, requirements, question["packed"]),
        "padding": padding,
    }


def _packs(model: "PreTrainedModel", requirements: ModelRequirements, kind: str | None) -> str | None:
    """Return why the model cannot take packed rows, tested on a tiny copy; empty: it can; None: not tested.

    `kind`: kind of the task if it packs rows, else None.
    """
    return _tiny_model.packs(model, requirements, kinds.module("tasks", kind).Task) if kind else None
