"""Settings of torch's kernels that follow from the recipe: full fp32 or TF32, and deterministic algorithms.

They belong to the whole process. A rank sets them once, before its model computes anything. Neither the environment of
a container nor torch's defaults decide them: cuDNN's convolutions use TF32 by default, and some containers set
TORCH_ALLOW_TF32_CUBLAS_OVERRIDE or NVIDIA_TF32_OVERRIDE.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.utils import deterministic

if TYPE_CHECKING:
    from launcher.config.training import Train

_TF32 = "NVIDIA_TF32_OVERRIDE"
"""Variable of NVIDIA's libraries: 0 switches TF32 off, whatever torch asks for."""
_WORKSPACE, _FLASH = "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"
_REPEATABLE = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS always adds up in the same order (cuBLAS documentation, Results Reproducibility)."""
_NOT_DETERMINISTIC = " does not have a deterministic implementation"
"""Part of torch's message, after the name of the operation."""
_FIRST_WITH_TF32 = 8
"""Major compute capability of the first GPUs with TF32 (Ampere)."""


def apply(train: "Train") -> None:
    """Set the kernels for the `train` of a recipe."""
    _set_tf32(train.precision == "tf32")
    _set_deterministic(train.deterministic)


def _set_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 for matrix products, convolutions and recurrent layers on CUDA. On a CPU fp32 stays fp32.

    torch has an old and a new interface, and raises an error when it reads one that contradicts the other. The old
    setters keep both equal. The new ones then replace values that inherit from a more general setting.
    """
    if allowed:
        os.environ.pop(_TF32, None)
    else:
        os.environ[_TF32] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old interface is deprecated, but torch's own code still reads it
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
    backends = torch.backends
    for operation in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        operation.fp32_precision = "tf32" if allowed else "ieee"
    for operation in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn):
        operation.fp32_precision = "ieee"


def _set_deterministic(wanted: bool) -> None:
    """Select deterministic algorithms, so that the same layout computes the same bits again. cuBLAS reads its variable
    when it is first used."""
    if wanted or torch.are_deterministic_algorithms_enabled():  # the call imports torch's compiler
        torch.use_deterministic_algorithms(wanted)
    deterministic.fill_uninitialized_memory = False  # training reads no memory that it has not written
    if not wanted:
        return
    torch.backends.cudnn.benchmark = False
    os.environ[_FLASH] = "1"
    if os.environ.get(_WORKSPACE) not in _REPEATABLE:
        os.environ[_WORKSPACE] = _REPEATABLE[0]


def notes(precision: str, device: torch.device) -> list[str]:
    """Return a note if the precision is TF32 and the device has none."""
    if precision != "tf32":
        return []
    if device.type != "cuda":
        return [f"train.precision: tf32 is the same as fp32 on a {device.type} device"]
    if torch.cuda.get_device_capability(device)[0] >= _FIRST_WITH_TF32:
        return []
    return [f"train.precision: {torch.cuda.get_device_name(device)} has no TF32, so that tf32 is the same as fp32"]


def nondeterministic(error: BaseException) -> str | None:
    """Return the name of the operation if an error means that it has no deterministic algorithm; else None."""
    name, found, _ = str(error).partition(_NOT_DETERMINISTIC)
    return (name.split() or ["an operation"])[-1] if found else None


@contextmanager
def explained() -> Iterator[None]:
    """Replace torch's error about an operation without a deterministic algorithm by one that names the recipe's key."""
    try:
        yield
    except RuntimeError as error:
        if (name := nondeterministic(error)) is None:
            raise
        what = f"{name} has no deterministic algorithm, which train.deterministic requires (false trains without)"
        raise RuntimeError(what) from error
