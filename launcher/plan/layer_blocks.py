"""The repeated blocks of a model, found by structure: members of its outermost ModuleLists that hold parameters."""

from typing import Any


def blocks(module: Any) -> list[Any]:
    """The blocks of a torch module, in the order of the model."""
    if _is_list(module):
        members = [b for m in module for b in (blocks(m) if _is_list(m) else [m])]
        return [m for m in members if any(True for _ in m.parameters())]
    return [block for child in module.children() for block in blocks(child)]


def _is_list(module: Any) -> bool:
    return type(module).__name__ == "ModuleList"
