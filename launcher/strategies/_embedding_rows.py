"""Embedding tables on a CPU whose gradient of a micro-batch is added to that of the step by rows.

torch computes the gradient of a table as a dense tensor of zeros and a few rows, and adds all of it. For a table of
30,522 x 384 and 1,000 tokens, this takes 40 times as long as adding the rows.
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F


class Table(nn.Embedding):  # type: ignore[misc]
    """An embedding on a CPU. `adds`: whether a backward adds rows to the gradient that `weight` has."""

    adds: bool = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() or not self.weight.requires_grad:
            return super().forward(input)
        looked_up: torch.Tensor = _Lookup.apply(self.weight, input, self)
        return looked_up

    def add(self, indices: torch.Tensor, rows: torch.Tensor) -> bool:
        """Add the gradients of looked-up rows to the gradient of the step. Returns False if there is none yet."""
        gradient = self.weight.grad
        if not self.adds or gradient is None:
            return False
        indices, rows = indices.flatten(), rows.reshape(-1, self.embedding_dim)
        if self.padding_idx is not None:
            kept = (indices != self.padding_idx).nonzero().squeeze(1)
            indices, rows = indices[kept], rows[kept]
        gradient.index_add_(0, indices, rows)
        return True


class _Context(Protocol):
    saved_tensors: tuple[torch.Tensor, ...]
    table: Table

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class _Lookup(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: _Context, weight: torch.Tensor, indices: torch.Tensor, table: Table) -> torch.Tensor:
        ctx.save_for_backward(indices)
        ctx.table = table
        return F.embedding(indices, weight, table.padding_idx)

    @staticmethod
    def backward(ctx: _Context, rows: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (indices,), table = ctx.saved_tensors, ctx.table
        if table.add(indices, rows):
            return None, None, None  # the hooks of the parameter, such as DDP's, run all the same
        padding = -1 if table.padding_idx is None else table.padding_idx
        dense = torch.ops.aten.embedding_dense_backward(rows, indices, table.num_embeddings, padding, False)
        return dense, None, None


def convert(model: nn.Module, layers: Container[nn.Module]) -> list[Table]:
    """Turn the embeddings of a model on a CPU into tables that add rows, and return them. `layers`: blocks to leave as
    they are, because they may be compiled. Parameters of other classes, such as tensors without values, stay too."""
    found = []
    todo = [model]
    while todo:
        module = todo.pop()
        todo += [child for child in module.children() if child not in layers]
        if type(module) not in (nn.Embedding, Table) or module.weight.device.type != "cpu":
            continue
        if type(module.weight) is not nn.Parameter:
            continue
        if module.sparse or module.scale_grad_by_freq or module.max_norm is not None:
            continue
        module.__class__ = Table  # the parameter, its names and hooks stay
        found.append(module)
    return found


@contextmanager
def adding(tables: Sequence[Table]) -> Iterator[None]:
    """Let a backward inside add rows. A backward of anything else, such as a task's own gradient, adds none."""
    for table in tables:
        table.adds = True
    try:
        yield
    finally:
        for table in tables:
            table.adds = False
