"""What a model draws in a training step, found by trying before it is wrapped: never kept in a table of architectures.

A sample goes through the model in training mode, alone and twice in a micro-batch: the calls of random functions are
recorded with their modules, and the axes of what they draw are known by how they grow. Then the result is checked:
neither another state of every generator nor another sample in the micro-batch may change the loss of a sample.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from launcher.config.errors import Problem, UserError
from launcher.contract.dropout import threshold
from launcher.run.batches import Trial, Trials
from launcher.run.precision import autocast
from launcher.run.random_functions import Interception
from launcher.run.randomness import Kind, ModelRandomness, Site

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 2**-5, "fp16": 2**-7}
"""The largest relative difference between the loss of two samples together and the sum of their losses."""

_OWN = "draws random numbers of its own"


def take_over(
    model: nn.Module, loss: Callable[[dict[str, Any]], torch.Tensor], trials: Trials, precision: str
) -> ModelRandomness:
    """Have the model draw by the contract. `loss`: of a micro-batch, by way of the model. What could not be taken over
    is described in `foreign`. Raises UserError for a dropout rate that is none."""
    randomness, training = ModelRandomness(trials.one.rows.step.device), model.training
    model.train()
    with torch.no_grad(), autocast(precision, randomness.device), _generators_kept():
        every = [_record(model, loss, trial.batch) for trial in (trials.one, trials.two, trials.packed) if trial]
        _assign(model, randomness, every)

        def value(trial: Trial) -> float:
            with randomness.drawing(trial.rows):
                return float(loss(trial.batch))

        _check(model, randomness, value, trials, TOLERANCE[precision])
    model.train(training)
    return randomness


Record = dict[str | None, list[list[tuple[int, ...]]]]
"""By module (None: outside of the model) the shapes that were drawn, by invocation."""


class _Recording:
    """Draws that nothing is dropped or skipped by, and their shapes."""

    def __init__(self, stack: list[str], found: Record):
        self.stack, self.found = stack, found

    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        try:
            threshold(rate)
        except ValueError as error:
            raise UserError(Problem("model", f"{self._where or 'the task'}: {error}")) from None
        self._note(shape)
        return torch.ones(tuple(shape), dtype=torch.bool, device=device)

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        self._note(shape)
        return torch.full(tuple(shape), 1 - 2.0**-10, device=device)

    @property
    def _where(self) -> str | None:
        return self.stack[-1] if self.stack else None

    def _note(self, shape: Sequence[int]) -> None:
        self.found[self._where][-1].append(tuple(shape))


def _record(model: nn.Module, loss: Callable[[dict[str, Any]], torch.Tensor], batch: dict[str, Any]) -> Record:
    stack, found = list[str](), Record({None: [[]]})

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            stack.append(name)
            found.setdefault(name, []).append([])

        return hook

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        with Interception(_Recording(stack, found)):
            loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: calls for name, calls in found.items() if any(calls)}


def _assign(model: nn.Module, randomness: ModelRandomness, every: list[Record]) -> None:
    """Take over the modules whose draws can be told apart by sample."""
    one, *others = every
    for name in dict.fromkeys(name for record in every for name in record):
        where = "the task" if name is None else name or type(model).__name__
        if name is None:
            randomness.foreign.append(f"{where} {_OWN}")
            continue
        calls = [record.get(name, []) for record in (one, *others)]
        shapes = [_of_an_invocation(invocations) for invocations in calls]
        if any(s is None or len(s) != len(shapes[0] or []) for s in shapes):
            randomness.foreign.append(f"{where} draws another number of times in another micro-batch")
            continue
        sites = [_site(*by_trial) for by_trial in zip(*[s or [] for s in shapes], strict=True)]
        if any(site is None for site in sites):
            randomness.foreign.append(f"{where} draws numbers that belong to no single sample")
            continue
        randomness.take_over(name, model.get_submodule(name), [s for s in sites if s], len(calls[0]))


def _of_an_invocation(calls: list[list[tuple[int, ...]]]) -> list[tuple[int, ...]] | None:
    """The shapes of any invocation; None: they differ in number."""
    longest = max(calls, key=len, default=[])
    return longest if all(len(call) == len(longest) for call in calls) else None


def _site(alone: tuple[int, ...], both: tuple[int, ...], packed: tuple[int, ...] | None = None) -> Site | None:
    """What the axes of a draw are, from its shapes for one row, two rows, and a row of two samples; None: unclear. Of
    rows that samples share, each token needs draws of its own."""
    if len({len(shape) for shape in (alone, both, packed or alone)}) > 1:
        return None
    axes = [
        _axis(size, twice, None if packed is None else packed[n])
        for n, (size, twice) in enumerate(zip(alone, both, strict=True))
    ]
    if any(axis is None for axis in axes):
        return None
    site = Site(tuple(axis for axis in axes if axis), alone)
    if sum(axis.startswith("sample") for axis in site.axes) > 1:
        return None
    by_token = any(axis.endswith("position") for axis in site.axes)
    return site if by_token or not packed or not site.of_samples else None


def _axis(size: int, both: int, longer: int | None) -> Kind | None:
    if longer not in (None, size, 2 * size) or both not in (size, 2 * size):
        return None
    grows = longer == 2 * size
    if both == size:
        return "position" if grows else "other"
    if size == 1 and not grows:
        return "sample"
    return "sample x position" if grows else "sample x other"


def _check(
    model: nn.Module,
    randomness: ModelRandomness,
    value: Callable[[Trial], float],
    trials: Trials,
    tolerance: float,
) -> None:
    """Describe the randomness that is left, and a loss that depends on its company."""
    _seed(1)
    first = value(trials.one)
    _seed(2)
    if not _near(first, value(trials.one), 0.0):
        name = _first_to_differ(model, lambda: value(trials.one))
        if not any(one.startswith(f"{name} ") for one in randomness.foreign):
            randomness.foreign.append(f"{name} {_OWN}")
        return
    apart, together = value(trials.short) + value(trials.long), value(trials.together)
    if not _near(apart, together, tolerance) and not randomness.foreign:
        what = f"{type(model).__name__} computes a sample otherwise beside another one"
        randomness.foreign.append(f"{what} (loss {together:.6g} together, {apart:.6g} apart)")


def _near(one: float, other: float, tolerance: float) -> bool:
    """Losses that are no numbers tell nothing."""
    if not (np.isfinite(one) and np.isfinite(other)):
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-3)


def _first_to_differ(model: nn.Module, run: Callable[[], float]) -> str:
    """The first module to finish with another output under another seed, or the task."""
    sums = list[list[tuple[str, float]]]()
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        sums[-1].append((names[module] or type(model).__name__, _sum(output)))

    handles = [module.register_forward_hook(note) for module in names]
    try:
        for seed in (1, 2):
            sums.append([])
            _seed(seed)
            run()
    finally:
        for handle in handles:
            handle.remove()
    differing = (here[0] for here, there in zip(*sums, strict=False) if here != there)
    return next(differing, "the task")


def _sum(output: Any) -> float:
    """A sum over all tensors of an output, of values weighed by their places."""
    if isinstance(output, torch.Tensor):
        flat = output.detach().double().flatten().nan_to_num()
        return float((flat * torch.linspace(1, 2, len(flat), dtype=flat.dtype, device=flat.device)).sum())
    if isinstance(output, dict):
        output = list(output.values())
    return sum(map(_sum, output)) if isinstance(output, list | tuple) else 0.0


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the generators of torch, numpy and Python as they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        yield
    np.random.set_state(of_numpy)
    random.setstate(of_python)
