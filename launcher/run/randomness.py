"""The random numbers of a model in a training step: functions of the sample, not of a generator's state.

Modules that draw have been found by `launcher.run.randomness_probe`. Each of them gets a subclass of its class, of the
same name, whose forward computes the draws of the micro-batch at hand (`launcher.run.dropout`) wherever the module
calls a random function of torch. Names, parameters and state dicts stay the bare model's, whatever wraps it later.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from launcher.contract import dropout as definition
from launcher.run import dropout
from launcher.run.dropout import Axis, SampleRows
from launcher.run.random_functions import Interception

Kind = Literal["sample", "position", "other", "sample x position", "sample x other"]
"""What an axis of a drawn tensor counts: rows of the micro-batch, tokens of a row, anything else (features, heads), or
rows and one of the others flattened into one axis, the rows outside."""


@dataclass
class Site:
    """One draw of a module. `axes`: what those of the drawn tensor are; `shape`: its shape for a micro-batch of the one
    row it was found with; `sharded`: the axes of which each tensor-parallel rank has an equal part."""

    axes: tuple[Kind, ...]
    shape: tuple[int, ...]
    sharded: tuple[int, ...] = ()

    @property
    def of_samples(self) -> bool:
        return any(axis.startswith("sample") for axis in self.axes)


@dataclass
class ModelRandomness:
    """What a model draws. `rows`: what those of the current micro-batch are; None outside of training steps, where
    modules draw as they always did. `foreign`: descriptions of randomness that could not be taken over. `settling`: a
    forward is finding out which axes are sharded."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tensor_parallel_rank: int = 0
    tensor_parallel: int = 1
    foreign: list[str] = field(default_factory=list)
    modules: "dict[str, ModuleDraws]" = field(default_factory=dict)
    rows: SampleRows | None = None
    settling: bool = False

    def take_over(self, name: str, module: nn.Module, sites: list[Site], invocations: int) -> None:
        """Have a module draw by the contract. `invocations`: how often it runs in a forward."""
        key = definition.place_key(name)
        if any(key == other.key for other in self.modules.values()):
            raise RuntimeError(f"two modules with the same place key: {name}")
        self.modules[name] = ModuleDraws(self, name, key, sites, invocations > 1)
        module.draws_of_samples = self.modules[name]  # type: ignore[assignment]
        module.__class__ = _drawing(type(module))

    @contextlib.contextmanager
    def drawing(self, rows: SampleRows) -> Iterator[None]:
        """A micro-batch: its forward and its backward belong inside."""
        before = self.rows
        self._begin(rows, {})
        try:
            yield
        finally:
            self.rows = before

    def recomputation(self) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        """The contexts of a checkpointed forward and of its recomputation, which draws the same again."""
        rows, invocations = self.rows, {name: one.invocation for name, one in self.modules.items() if one.repeated}
        return contextlib.nullcontext(), self._again(rows, invocations)

    @contextlib.contextmanager
    def _again(self, rows: SampleRows | None, invocations: dict[str, int]) -> Iterator[None]:
        before = self.rows
        self._begin(rows, invocations)
        try:
            yield
        finally:
            self.rows = before

    def _begin(self, rows: SampleRows | None, invocations: dict[str, int]) -> None:
        self.rows = rows
        for name, module in self.modules.items():
            module.invocation = invocations.get(name, 0)


class ModuleDraws:
    """The draws of one module: `sites` in the order in which it makes them, `repeated` where it runs several times in a
    forward."""

    def __init__(self, randomness: ModelRandomness, name: str, key: int, sites: list[Site], repeated: bool):
        self.randomness, self.name, self.key, self.sites, self.repeated = randomness, name, key, sites, repeated
        self.invocation = 0
        self.place = torch.tensor(key - 2**64 if key >= 2**63 else key, device=randomness.device)

    def begin(self, rows: SampleRows) -> "CounterDraws":
        """The draws of the next invocation."""
        made = CounterDraws(self, rows, self.invocation)
        if self.repeated:
            self.invocation += 1
        return made


class CounterDraws:
    """The draws of an invocation of a module (see launcher.run.random_functions.Draws)."""

    def __init__(self, module: ModuleDraws, rows: SampleRows, invocation: int):
        self.module, self.rows, self.invocation, self.number = module, rows, invocation, 0

    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        site, call = self._next(shape)
        found = dropout.keep_mask(self._keys(site), self.module.place, call, *self._axes(site, shape), rate)
        return _arranged(found, site, shape)

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        site, call = self._next(shape)
        found = dropout.uniform_numbers(self._keys(site), self.module.place, call, *self._axes(site, shape))
        return _arranged(found, site, shape)

    def _next(self, shape: Sequence[int]) -> tuple[Site, int]:
        name, number, sites = self.module.name, self.number, self.module.sites
        if number >= len(sites) or len(sites[number].axes) != len(shape):
            raise RuntimeError(f"{name} draws another number of times, or tensors of other shapes, than in the trial")
        site, randomness = sites[number], self.module.randomness
        self.number += 1
        if randomness.settling:
            parts = randomness.tensor_parallel
            site.sharded = tuple(n for n, size in enumerate(shape) if size < site.shape[n] == size * parts)
        return site, definition.call(self.invocation, number)

    def _keys(self, site: Site) -> torch.Tensor:
        return self.rows.keys if site.of_samples else self.rows.step

    def _axes(self, site: Site, shape: Sequence[int]) -> tuple[tuple[Axis, ...], torch.Tensor | None]:
        """The axes within a sample, at least one, and the positions of tokens where rows are shared."""
        rows, found = len(self.rows.keys), []  # not list[...](), which torch.compile cannot trace
        positions = self.rows.positions if site.of_samples else None
        for number, (kind, size) in enumerate(zip(site.axes, shape, strict=True)):
            first = self.module.randomness.tensor_parallel_rank * size if number in site.sharded else 0
            if kind.startswith("sample") and (size % rows or (kind == "sample" and size != rows)):
                raise RuntimeError(f"{self.module.name} draws for {size} rows of a micro-batch of {rows}")
            if kind != "sample":
                size = size // rows if kind.startswith("sample") else size
                found.append(Axis(positions is not None and kind.endswith("position"), size, first))
        return tuple(found) or (Axis(False, 1),), positions


class _DrawingForward:
    """Mixed into the class of a module that draws."""

    draws_of_samples: ModuleDraws

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        rows = self.draws_of_samples.randomness.rows
        if rows is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        with Interception(self.draws_of_samples.begin(rows)):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


@cache
def _drawing(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a module's class, of the same name: one for all modules of the class, so that compiled layers
    share their code."""
    return type(kind.__name__, (_DrawingForward, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _arranged(found: torch.Tensor, site: Site, shape: Sequence[int]) -> torch.Tensor:
    """What has the samples first, or an axis of one in their place, in the shape that was asked for."""
    at = next((n for n, axis in enumerate(site.axes) if axis.startswith("sample")), None)
    if at is None:
        return found.reshape(tuple(shape))
    return (found if at == 0 else found.movedim(0, at)).reshape(tuple(shape))
