"""Detection of a model's layers and trained parameters by one forward, instead of a table of architectures."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from launcher.config.errors import Problem, UserError, first_line
from launcher.distributed.process_group import ProcessGroup
from launcher.plan.layer_blocks import blocks
from launcher.tasks import Batch, Task
from launcher.train import kernel_settings
from launcher.train.precision import autocast, exact_first

T = TypeVar("T")
_OF_DEVICE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError)
_DEVICE_WORDS = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "NCCL", "out of memory")
"""Types and messages of errors that are no mistake of the model's code."""
_TORCH = str(Path(torch.__file__).parent)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelProbe:
    """The result of a probe.

    `layers`: the repeated blocks that ran exactly once, by name. `linears`: for each layer, the names of its linear
    modules in the order in which they ran. `unreached`: names of the parameters that do not affect the loss.
    """

    layers: dict[str, nn.Module]
    linears: dict[str, list[str]]
    unreached: list[str]


def run(model: nn.Module, task: Task, example: Batch) -> ModelProbe:
    """Run one forward without dropout, and return what it shows. The parameters that affect the loss are read from its
    graph, without a backward."""
    names = {module: name for name, module in model.named_modules()}
    candidates = blocks(model)
    order: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(partial(_note, order))
        for module in names
        if module in candidates or isinstance(module, nn.Linear)
    ]
    training = model.training
    model.eval()
    try:
        loss, _ = task.loss(model, example)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    reached = _leaves(loss)
    layers = {names[block]: block for block in candidates if order.count(block) == 1}
    ran = [names[module] for module in dict.fromkeys(order) if isinstance(module, nn.Linear)]
    return ModelProbe(
        layers=layers,
        linears={name: [n.removeprefix(f"{name}.") for n in ran if n.startswith(f"{name}.")] for name in layers},
        unreached=[name for name, p in model.named_parameters() if p.requires_grad and p not in reached],
    )


@dataclass(frozen=True)
class ExactLoss:
    """The loss of a sample without dropout, and the precision of its computation."""

    value: float
    precision: str


def exact_loss(model: nn.Module, task: Task, example: Batch, precision: str, process: ProcessGroup) -> ExactLoss | None:
    """Return the loss of one sample without dropout, in full precision if the model can compute it so. Returns None if
    ranks do not split a sample, so that nothing is compared with it."""
    if process.tensor_parallel == 1:
        return None
    return exact(model, precision, process.device, lambda kind: ExactLoss(loss(model, task, example), kind))


def prepare(task: Task, model: nn.Module, example: Batch, precision: str, device: torch.device) -> list[str]:
    """Let a task prepare the model, and return its notes. Its tests run in full precision if the model can compute
    so."""
    return exact(model, precision, device, lambda kind: task.prepare_model(model, example))


def exact(model: nn.Module, precision: str, device: torch.device, test: Callable[[str], T]) -> T:
    """Return the result of a test of a model, in full precision if the model can compute it so, else in the precision
    of the run. `test`: is called with the precision."""
    training = model.training
    for kind in exact_first(precision):
        try:
            with autocast(kind, device):
                return test(kind)
        except UserError:
            raise
        except Exception:  # a kernel without fp32 support, such as flash attention's
            if kind == precision:
                raise
        finally:
            model.train(training)
    raise AssertionError("no precision")


@contextmanager
def reported(model: nn.Module, task: str) -> Iterator[None]:
    """Raise any error of the block as a UserError of one line, with the place in the code. The traceback is logged for
    --verbose. Errors of memory, of a device and of other ranks are raised unchanged. `task`: its kind."""
    try:
        yield
    except (UserError, *_OF_DEVICE):
        raise
    except Exception as error:  # a user's code may raise anything
        if any(word in str(error) for word in _DEVICE_WORDS):
            raise
        _log.debug("%s cannot compute a sample", type(model).__name__, exc_info=error)
        if name := kernel_settings.nondeterministic(error):
            what = f"{name} has no deterministic algorithm (false trains without)"
            raise UserError(Problem("train.deterministic", what)) from None
        what = f"{type(error).__name__}: {first_line(error)[:200]}{_place(error)}"
        raise UserError(Problem("model", f"{type(model).__name__} cannot compute a sample of {task}: {what}")) from None


def _place(error: Exception) -> str:
    """Return the last line outside of torch that an error came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_TORCH)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def loss(model: nn.Module, task: Task, example: Batch) -> float:
    """Return the loss of one sample without dropout."""
    training = model.training
    model.eval()
    with torch.no_grad():
        value = float(task.loss(model, example)[0])
    model.train(training)
    return value


def _note(order: list[nn.Module], module: nn.Module, inputs: object) -> None:
    """Record a call with gradients. Calls without them are ignored, because a task may make some for predictions."""
    if torch.is_grad_enabled():
        order.append(module)


def _leaves(loss: torch.Tensor) -> set[torch.Tensor]:
    """Return the leaf tensors that a backward from this loss would reach."""
    seen, todo, found = set[object](), [loss.grad_fn], set[torch.Tensor]()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [after for after, _ in node.next_functions]
    return found
