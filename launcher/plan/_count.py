"""A child process: a model on the meta device, told in one line of JSON. Here alone torch is imported."""

import json
import sys
from typing import Any

from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.plan import _tiny
from launcher.plan.architecture import attention_dropout
from launcher.plan.blocks import blocks
from launcher.plan.need import Need


def main() -> None:
    import torch

    question = json.loads(sys.stdin.read())
    need = Need(**question["need"])
    model_module = kinds.module("models", question["model"]["kind"])
    try:
        config = model_module.Config.model_validate(question["model"])
        with torch.device("meta"):
            model, _ = model_module.build(config, need, weights=False)
            if getattr(config, "unfreeze_at", None):  # the fullest moment is after it
                model, _ = model_module.build(config.at(config.unfreeze_at), need, weights=False)
    except UserError as error:
        print(json.dumps({"problems": error.problems}))
        return
    hf = getattr(model, "config", None)
    widths = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
    layers = [sum(p.numel() for p in block.parameters()) for block in blocks(model)]
    said = {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "buffers": sum(b.numel() for b in model.buffers()),
        "in_layers": sum(layers),
        "largest_layer": max(layers, default=0),
        "largest_parameter": max((p.numel() for p in model.parameters()), default=0),
        **{key: int(getattr(hf, name, 0) or 0) for key, name in widths.items()},
        "attention_dropout": max(attention_dropout(hf).values(), default=0.0),
        "packs": _packs(model, need, question["packed"]),
    }
    print(json.dumps(said))


def _packs(model: Any, need: Need, kind: str | None) -> str | None:
    """What a tiny copy tells of packed rows, for a task of this kind; None: nothing, or it was not asked."""
    task = getattr(kinds.module("tasks", kind), "Task", None) if kind else None
    return _tiny.packs(model, need, task) if hasattr(task, "refusal") else None


if __name__ == "__main__":
    main()
