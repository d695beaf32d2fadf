"""Detection of a model's random draws in a training step, by test forwards instead of a table of architectures.

A sample is passed through the model in training mode, alone and twice in a micro-batch. The calls of random functions
are recorded with their modules, and the growth of the shapes shows the meaning of each axis of a draw. Then the result
is verified: the loss of a sample must depend neither on a generator nor on other samples.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from launcher.config.errors import Problem, UserError
from launcher.contract.dropout import threshold
from launcher.tasks import Batch
from launcher.tasks._sequences import Sequences
from launcher.train.data_loader import ProbeBatch, ProbeBatches
from launcher.train.precision import TOLERANCE, autocast, exact_first
from launcher.train.random_interception import Interception
from launcher.train.sample_randomness import DrawMismatch, DrawSite, Kind, ModelRandomness

Loss = Callable[[Batch], torch.Tensor]
Shape = tuple[int, ...]
Record = dict[str | None, list[list[Shape]]]
"""Shapes of the draws of each invocation, by module name; None: outside the model."""

_OWN = "draws random numbers of its own"


def take_over(model: nn.Module, loss: Loss, batches: ProbeBatches, precision: str) -> ModelRandomness:
    """Make the modules of a model draw by the contract, and return the model's draws.

    `unreproducible` of the result describes draws that the contract does not cover. `loss`: computes the loss of a
    micro-batch with the model. Raises UserError for a dropout rate outside [0, 1).
    """
    randomness, training, device = ModelRandomness(), model.training, batches.one.rows.keys.device
    model.train()
    with torch.no_grad(), _state_restored(model, device):
        with autocast(precision, device):
            tried = (batches.one, batches.two, batches.packed)
            records = [_record(model, loss, batch.batch) for batch in tried if batch is not None]
        in_row = batches.packed is not None and batches.packed.rows.sequences is not None
        _assign(model, randomness, records, in_row)
        while (mismatch := _verify(model, randomness, loss, batches, precision)) is not None:
            randomness.release(mismatch.name, model.get_submodule(mismatch.name))
            randomness.unreproducible.append(str(mismatch))
    model.train(training)
    return randomness


class _Recording:
    """Draws that record their shapes by module. All values are kept, and uniform numbers are near 1, so that no layer
    is skipped."""

    def __init__(self, stack: list[str], found: Record):
        self.stack, self.found = stack, found

    def keep_by_run(self, sequences: Sequences, heads: int, rate: float, device: torch.device) -> list[torch.Tensor]:
        self.keep((1, heads, 1, 1), rate, device)
        self.found[self.stack[-1] if self.stack else None][-1][-1] = (1, heads, sequences.tokens, sequences.tokens)
        shapes = ((run.sequences, heads, run.length, run.length) for run in sequences.runs)
        return [torch.ones(shape, dtype=torch.bool, device=device) for shape in shapes]

    def keep(self, shape: Sequence[int], rate: float, device: torch.device) -> torch.Tensor:
        name = self.stack[-1] if self.stack else None
        try:
            threshold(rate)
        except ValueError as error:
            raise UserError(Problem("model", f"{name or 'the task'}: {error}")) from None
        self.found[name][-1].append(tuple(shape))
        return torch.ones(tuple(shape), dtype=torch.bool, device=device)

    def uniform(self, shape: Sequence[int], device: torch.device) -> torch.Tensor:
        self.found[self.stack[-1] if self.stack else None][-1].append(tuple(shape))
        return torch.full(tuple(shape), 1 - 2.0**-10, device=device)


def _record(model: nn.Module, loss: Loss, batch: Batch) -> Record:
    """Return the draws of one forward."""
    stack, found = list[str](), Record({None: [[]]})

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object) -> None:
            stack.append(name)
            found.setdefault(name, []).append([])

        return hook

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        stack.pop()

    handles = []
    for name, module in _modules(model):
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        with Interception(_Recording(stack, found)):
            loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: calls for name, calls in found.items() if any(calls)}


def _assign(model: nn.Module, randomness: ModelRandomness, records: list[Record], in_row: bool) -> None:
    """Take over the modules whose draws belong to samples, and describe the others in `unreproducible`. `in_row`: as in
    `_site`."""
    for name in dict.fromkeys(name for record in records for name in record):
        if name is None:
            randomness.unreproducible.append(f"the task {_OWN}")
            continue
        where = name or type(model).__name__
        calls = [record.get(name, []) for record in records]
        if len({tuple(map(len, invocations)) for invocations in calls}) > 1:
            randomness.unreproducible.append(f"{where} draws another number of times in another micro-batch")
            continue
        sites = [
            [_site(in_row, *shapes) for shapes in zip(*invocation, strict=True)]
            for invocation in zip(*calls, strict=True)
        ]
        known = [[site for site in invocation if site is not None] for invocation in sites]
        if known != sites:
            randomness.unreproducible.append(f"{where} draws numbers that belong to no single sample")
            continue
        randomness.take_over(name, model.get_submodule(name), known)


def _site(in_row: bool, one: Shape, two: Shape, packed: Shape | None = None) -> DrawSite | None:
    """Return the meaning of the axes of a draw; None: unclear.

    The shapes are those of the draw for one row, two rows, and one row of two samples (if samples share rows). If
    samples share rows, each draw has to belong to a token. `in_row`: this row has no padding, and a head computes one
    output for each of its samples, so that a draw may belong to a sample.
    """
    if len({len(shape) for shape in (one, two, one if packed is None else packed)}) > 1:
        return None
    sizes = zip(one, two, one if packed is None else packed, strict=True)
    axes = ["sample" if in_row and each == (1, 2, 2) else _axis(*each) for each in sizes]
    known = tuple(axis for axis in axes if axis is not None)
    if len(known) < len(axes) or sum(axis.startswith("sample") for axis in known) > 1:
        return None
    site = DrawSite(known, one)
    by_token = any(axis.endswith("position") for axis in known)
    return site if packed is None or in_row or by_token or not site.of_samples else None


def _axis(one: int, two: int, packed: int) -> Kind | None:
    if packed not in (one, 2 * one) or two not in (one, 2 * one):
        return None
    of_tokens = packed == 2 * one
    if two == one:
        return "position" if of_tokens else "other"
    if one == 1 and not of_tokens:
        return "sample"
    return "sample x position" if of_tokens else "sample x other"


def _verify(
    model: nn.Module, randomness: ModelRandomness, loss: Loss, batches: ProbeBatches, precision: str
) -> DrawMismatch | None:
    """Find remaining randomness, and a loss that depends on other samples of a micro-batch.

    Both are described in `unreproducible`. Returns the mismatch of a module whose draws differ from the recorded ones;
    None: there is none.
    """

    def value(batch: ProbeBatch, kind: str = precision) -> float:
        with randomness.drawing(batch.rows), autocast(kind, batch.rows.keys.device):
            return float(loss(batch.batch))

    try:
        _seed(1)
        first = value(batches.together)
        _seed(2)
        if not _near(first, value(batches.together), 0.0):
            name = _first_to_differ(model, lambda: value(batches.together))
            _seed(1)
            repeats = _near(first, value(batches.together), 0.0)
            what = _OWN if repeats else "computes something else each time it runs"
            if not any(one.startswith(f"{name} ") for one in randomness.unreproducible):
                randomness.unreproducible.append(f"{name} {what}")
        elif not randomness.unreproducible:
            randomness.unreproducible.extend(_mixing(model, value, batches, precision))
    except DrawMismatch as mismatch:
        return mismatch
    return None


def _mixing(model: nn.Module, value: Callable[..., float], batches: ProbeBatches, precision: str) -> list[str]:
    """Return descriptions of a loss that depends on the other sample of a micro-batch; empty: it does not."""
    for kind in exact_first(precision):
        try:
            apart, together = value(batches.short, kind) + value(batches.long, kind), value(batches.together, kind)
            break
        except (DrawMismatch, UserError):
            raise
        except Exception:  # a kernel without fp32 support
            if kind == precision:
                raise
    if _near(apart, together, TOLERANCE[kind]):
        return []
    what = f"{type(model).__name__} gives a sample another loss beside another sample"
    return [f"{what} ({together:.6g} together, {apart:.6g} apart)"]


def _near(one: float, other: float, tolerance: float) -> bool:
    """Return whether two losses are equal within a relative tolerance; True if one is not finite."""
    if not (np.isfinite(one) and np.isfinite(other)):
        return True
    return abs(one - other) <= tolerance * max(abs(one), abs(other), 1e-3)


def _first_to_differ(model: nn.Module, run: Callable[[], float]) -> str:
    """Return the name of the first finished module whose output depends on the seed while its input does not; else the
    task."""
    sums = list[list[tuple[str, float, float]]]()

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: sums[-1].append((name, _sum(inputs), _sum(output)))

    handles = [m.register_forward_hook(note(name or type(model).__name__)) for name, m in _modules(model)]
    try:
        for seed in (1, 2):
            sums.append([])
            _seed(seed)
            run()
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(*sums, strict=False)
    return next((here[0] for here, there in pairs if here[1] == there[1] and here[2] != there[2]), "the task")


def _sum(value: object) -> float:
    """Return a weighted sum over all tensors of a value."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().double().flatten().nan_to_num()
        return float((flat * torch.linspace(1, 2, len(flat), dtype=flat.dtype, device=flat.device)).sum())
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_sum, value)) if isinstance(value, list | tuple) else 0.0


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules that support hooks, by name."""
    return [(n, m) for n, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)]


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def _state_restored(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the generators of torch, numpy and Python, and the model's buffers, after the block."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=_accelerator(device)):
        yield
    np.random.set_state(of_numpy)
    random.setstate(of_python)
    for buffer, before in buffers:
        buffer.copy_(before)


def _accelerator(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type
