"""Recognition of tensors of which each rank holds a shard (torch's DTensor), without an import of their module."""

import sys
from typing import TYPE_CHECKING, TypeGuard

import torch

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: torch.Tensor) -> TypeGuard["DTensor"]:
    """Return whether a tensor is a DTensor. If nothing has imported their module, there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)
