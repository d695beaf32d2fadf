"""The random numbers of a model in a training step, as functions of the sample instead of a generator.

`launcher.train.randomness_probe` finds the modules that draw. The class of each is replaced by a subclass of the same
name, whose forward computes the draws of the micro-batch (`launcher.train.counter_dropout`) wherever it calls a random
function of torch. Module names, parameters and state dicts do not change.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import nn

from launcher.contract import dropout as definition
from launcher.tasks._sequences import Sequences
from launcher.train import counter_dropout
from launcher.train.counter_dropout import Axis
from launcher.train.random_interception import Interception
from launcher.train.sample_rows import SampleRows

Kind = Literal["sample", "position", "other", "sample x position", "sample x other"]
"""Meaning of an axis of a drawn tensor.

sample: rows of the micro-batch; position: tokens of a row; other: anything else, such as features or heads. "sample x
..." is both flattened into one axis, rows first.
"""


@dataclass
class DrawSite:
    """One draw of a module. `axes`: the meaning of each axis; `shape`: for a micro-batch of one row; `sharded`: the
    axes of which each tensor-parallel rank has an equal part."""

    axes: tuple[Kind, ...]
    shape: tuple[int, ...]
    sharded: tuple[int, ...] = ()

    @property
    def of_samples(self) -> bool:
        return any(axis.startswith("sample") for axis in self.axes)

    @property
    def by_token(self) -> bool:
        return any(axis.endswith("position") for axis in self.axes)


class DrawMismatch(RuntimeError):
    """The draws of a module differ from its recorded draws. `name`: of the module."""

    def __init__(self, name: str, what: str):
        super().__init__(f"{name} {what}")
        self.name = name


@dataclass
class ModelRandomness:
    """The random draws of a model.

    `unreproducible`: descriptions of draws that depend on ranks and micro-batches. `rows`: those of the current
    micro-batch; None outside training steps, so that modules use torch's generator. `finding_shards`: True during the
    forward in which each draw detects its sharded axes.
    """

    tensor_parallel_rank: int = 0
    tensor_parallel: int = 1
    unreproducible: list[str] = field(default_factory=list)
    modules: "dict[str, ModuleDraws]" = field(default_factory=dict)
    rows: SampleRows | None = None
    finding_shards: bool = False

    def take_over(self, name: str, module: nn.Module, sites: list[list[DrawSite]]) -> None:
        """Make a module draw by the contract. `sites`: the module's draws in each invocation of a forward."""
        key = definition.place_key(name)
        if any(key == other.key for other in self.modules.values()):
            raise RuntimeError(f"two modules with the same place key: {name}")
        self.modules[name] = ModuleDraws(self, name, key, sites)
        module.draws_of_samples = self.modules[name]
        module.__class__ = _drawing(type(module))  # type: ignore[arg-type]

    def release(self, name: str, module: nn.Module) -> None:
        """Make a module draw from torch's generator again."""
        del self.modules[name]
        module.__class__ = type(module).__mro__[2]

    @contextlib.contextmanager
    def drawing(self, rows: SampleRows | None, invocations: Mapping[str, int] | None = None) -> Iterator[None]:
        """Make modules draw for `rows` inside the context: the forward and the backward of a micro-batch.
        `invocations`: number of times that each module has already run in the forward (default: 0)."""
        before, self.rows = self.rows, rows
        for name, module in self.modules.items():
            module.invocation = (invocations or {}).get(name, 0)
        try:
            yield
        finally:
            self.rows = before

    def recomputation(self) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        """Return the contexts of a checkpointed forward and of its recomputation, as torch.utils.checkpoint takes them.

        The recomputation repeats the random draws of the forward.
        """
        invocations = {name: one.invocation for name, one in self.modules.items()}
        return contextlib.nullcontext(), self.drawing(self.rows, invocations)


class ModuleDraws:
    """The draws of one module.

    `sites`: the draws of each invocation in a forward, in order; further invocations draw as the last one. `place`: the
    key of the module, as a scalar on the CPU, which can be combined with tensors of any device.
    """

    def __init__(self, randomness: ModelRandomness, name: str, key: int, sites: list[list[DrawSite]]):
        self.randomness, self.name, self.key, self.sites = randomness, name, key, sites
        self.invocation = 0
        self.place = torch.tensor(key - 2**64 if key >= 2**63 else key)

    def __deepcopy__(self, memo: dict[int, object]) -> "ModuleDraws":
        """Return the same object, so that a copy of a model draws the same numbers."""
        return self

    def begin(self, rows: SampleRows) -> "CounterDraws":
        """Return the draws of the next invocation."""
        made = CounterDraws(self, rows, self.invocation)
        self.invocation += 1
        return made


class CounterDraws:
    """The draws of an invocation of a module (see launcher.train.random_interception.Draws)."""

    def __init__(self, module: ModuleDraws, rows: SampleRows, invocation: int):
        self.module, self.rows, self.invocation, self.number = module, rows, invocation, 0

    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        site, call = self._next(shape)
        kept = counter_dropout.keep_mask(
            self._keys(site, device), self.module.place, call, *self._axes(site, shape), rate
        )
        return _arranged(kept, site, shape)

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        site, call = self._next(shape)
        numbers = counter_dropout.uniform_numbers(
            self._keys(site, device), self.module.place, call, *self._axes(site, shape)
        )
        return _arranged(numbers, site, shape)

    def keep_by_run(self, sequences: Sequences, heads: int, rate: float, device: torch.device) -> list[torch.Tensor]:
        site, call = self._next((1, heads, sequences.tokens, sequences.tokens))
        if site.axes[0] != "sample" or self.rows.sequences is None:
            raise DrawMismatch(self.module.name, "draws for a row of sequences other numbers than for one sample")
        keys, of_heads = self.rows.sequences.to(device, non_blocking=True), self._axis(site, 1, heads)
        return counter_dropout.keep_by_run(keys, self.module.place, call, of_heads, sequences.runs, rate)

    def _next(self, shape: Sequence[int]) -> tuple[DrawSite, int]:
        module, number = self.module, self.number
        sites = module.sites[min(self.invocation, len(module.sites) - 1)]
        if number >= len(sites) or len(sites[number].axes) != len(shape):
            raise DrawMismatch(module.name, "draws another number of times, or other shapes, than when it was tried")
        site, randomness = sites[number], module.randomness
        self.number += 1
        if randomness.finding_shards:
            parts = randomness.tensor_parallel
            site.sharded = tuple(n for n, size in enumerate(shape) if size < site.shape[n] == size * parts)
        return site, definition.call(self.invocation, number)

    def _keys(self, site: DrawSite, device: torch.device) -> torch.Tensor:
        """Return the keys on the draw's device. A model on an accelerator may draw on the CPU, such as for skipped
        layers."""
        keys = self._sample_keys(site) if site.of_samples else self.rows.step
        return keys.to(device, non_blocking=True)

    def _sample_keys(self, site: DrawSite) -> torch.Tensor:
        """Return the keys of the rows; for a draw without tokens in a row of sequences, those of the sequences."""
        sequences = self.rows.sequences
        return self.rows.keys if sequences is None or site.by_token else sequences

    def _axes(self, site: DrawSite, shape: Sequence[int]) -> tuple[tuple[Axis, ...], torch.Tensor | None]:
        """Return the axes within a sample, at least one, and the positions of tokens; None: rows are not shared."""
        rows, found = len(self._sample_keys(site)), []  # not list[...](), which torch.compile cannot trace
        positions = self.rows.positions if site.by_token else None
        for number, (kind, size) in enumerate(zip(site.axes, shape, strict=True)):
            if kind.startswith("sample") and (size % rows or (kind == "sample" and size != rows)):
                raise DrawMismatch(self.module.name, f"draws for {size} rows of a micro-batch of {rows}")
            if kind != "sample":
                size = size // rows if kind.startswith("sample") else size
                by_token = positions is not None and kind.endswith("position")
                found.append(self._axis(site, number, size)._replace(by_token=by_token))
        return tuple(found) or (Axis(False, 1),), positions

    def _axis(self, site: DrawSite, number: int, size: int) -> Axis:
        first = self.module.randomness.tensor_parallel_rank * size if number in site.sharded else 0
        return Axis(False, size, first)


class _DrawingForward:
    """Mixin for a module that draws by sample: its forward."""

    draws_of_samples: ModuleDraws

    def forward(self, *args: object, **kwargs: object) -> object:
        rows = self.draws_of_samples.randomness.rows
        if rows is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        with Interception(self.draws_of_samples.begin(rows)):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


@cache
def _drawing(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass, of the same name, of a module class that draws by sample. The cache makes all layers of a
    class share one subclass and its compiled code."""
    return type(kind.__name__, (_DrawingForward, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _arranged(draws: torch.Tensor, site: DrawSite, shape: Sequence[int]) -> torch.Tensor:
    """Return draws with the axis of samples moved from the front to its place. Draws without samples lose their first
    axis, which has size 1."""
    at = next((n for n, axis in enumerate(site.axes) if axis.startswith("sample")), None)
    if at is None:
        return draws.reshape(tuple(shape))
    return (draws if at == 0 else draws.movedim(0, at)).reshape(tuple(shape))
