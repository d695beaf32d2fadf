"""Precision: the data type of parameters, the data type of computation, and the loss scale of fp16.

It is the same under every strategy. Parameters, gradients and moments are fp32 (fp64 for proofs); autocast uses bf16
and fp16. TF32 is a setting of kernels (`launcher.train.kernel_settings`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch

STORED = {
    "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64,
}  # fmt: skip
COMPUTED = {"bf16": torch.bfloat16, "fp16": torch.float16}

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4, "tf32": 2**-8, "fp16": 2**-7, "bf16": 2**-5}
"""Maximum relative difference between two losses that are equal except for rounding, in a test of a model."""

_FIRST, _GROW_AFTER, _LARGEST = 2.0**16, 2000, 2.0**24


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return torch's autocast for bf16 and fp16, and a context without effect for the others."""
    if precision in COMPUTED:
        context: contextlib.AbstractContextManager[object] = torch.autocast(device.type, dtype=COMPUTED[precision])
        return context
    return contextlib.nullcontext()


@contextlib.contextmanager
def casts_kept(precision: str, device: torch.device) -> Iterator[contextlib.AbstractContextManager[object]]:
    """Let every `autocast` inside use the same half-precision copies of the parameters, which torch makes at their
    first use. Yields the context for each backward, which autocast must not change. Parameters must not change inside.
    """
    if precision not in COMPUTED or not _copies_have_gradients(device.type, COMPUTED[precision]):
        yield contextlib.nullcontext()
        return
    with autocast(precision, device):  # torch discards the copies when the outermost context ends
        yield torch.autocast(device.type, enabled=False)


@cache
def _copies_have_gradients(kind: str, dtype: torch.dtype) -> bool:
    """Return whether a copy that autocast makes where gradients are off is left alone where they are on. If it is not,
    the recomputation of a checkpointed layer finds the copy of its forward, and its parameters get no gradient."""
    weight = torch.ones((1, 1), device=kind, requires_grad=True)
    inputs = torch.ones((1, 1), device=kind)
    with torch.autocast(kind, dtype=dtype):
        with torch.no_grad():
            torch.nn.functional.linear(inputs, weight)
        return bool(torch.nn.functional.linear(inputs, weight).requires_grad)


def exact_first(precision: str) -> tuple[str, ...]:
    """Return the precisions in which to test a model, in order.

    The first is fp32, because rounding in half precision would hide a difference. The second is the precision of the
    run, because some kernels refuse fp32.
    """
    return ("fp32", precision) if precision in COMPUTED else (precision,)


@dataclass
class LossScale:
    """A dynamic loss scale (Micikevicius et al., 2018).

    It is halved when scaled gradients overflow, and doubled after 2,000 steps without an overflow. It depends on the
    norm of the whole gradient, so that it is the same on all ranks, unlike torch's GradScaler. `value`: the scale; 1:
    none. `good`: steps since the last change.
    """

    value: float = 1.0
    good: int = 0

    @classmethod
    def of(cls, precision: str) -> "LossScale":
        return cls(_FIRST if precision == "fp16" else 1.0)

    def shrink(self) -> bool:
        """Halve the scale after an overflow. Returns False, without a change, if the scale is 1 and so is not the
        reason."""
        if self.value <= 1.0:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def succeed(self, dynamic: bool) -> None:
        """Count a step without an overflow, and double the scale when it is due. `dynamic`: False: never double it."""
        self.good += 1
        if dynamic and self.good >= _GROW_AFTER and self.value < _LARGEST:
            self.value, self.good = self.value * 2, 0
