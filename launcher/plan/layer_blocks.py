"""The repeated blocks of a model: members with parameters of its outermost ModuleLists."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def blocks(module: "torch.nn.Module") -> "list[torch.nn.Module]":
    """Return the blocks of a module, in the order of the model."""
    if _is_list(module):
        members = [b for m in module for b in (blocks(m) if _is_list(m) else [m])]
        return [m for m in members if any(True for _ in m.parameters())]
    return [block for child in module.children() for block in blocks(child)]


def _is_list(module: "torch.nn.Module") -> bool:
    return type(module).__name__ == "ModuleList"
