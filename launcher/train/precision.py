"""Precision: what a parameter is stored in, what a forward computes in, and the loss scale of fp16.

It means the same under every strategy: parameters, gradients and moments in fp32 (fp64 for proofs), and bf16 and fp16
by autocast.
"""

import contextlib
from dataclasses import dataclass

import torch

STORED = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
COMPUTED = {"bf16": torch.bfloat16, "fp16": torch.float16}

_FIRST, _GROW_AFTER, _LARGEST = 2.0**16, 2000, 2.0**24


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast for bf16 and fp16; fp32 and fp64 compute in their own type."""
    if precision in COMPUTED:
        context: contextlib.AbstractContextManager[object] = torch.autocast(device.type, dtype=COMPUTED[precision])
        return context
    return contextlib.nullcontext()


@dataclass
class LossScale:
    """A dynamic loss scale (Micikevicius et al., 2018): halved where scaled gradients overflow, doubled after 2,000
    steps without. torch's GradScaler looks at one rank's gradients; this one is moved by the norm that all ranks share,
    so that it is the same everywhere under every strategy. `value` is 1 where no scale is used."""

    value: float = 1.0
    good: int = 0

    @classmethod
    def of(cls, precision: str) -> "LossScale":
        return cls(_FIRST if precision == "fp16" else 1.0)

    def shrink(self) -> bool:
        """After an overflow. False: the scale cannot be what made the gradient overflow."""
        if self.value <= 1.0:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def succeed(self, dynamic: bool) -> None:
        """After a step that was taken."""
        self.good += 1
        if dynamic and self.good >= _GROW_AFTER and self.value < _LARGEST:
            self.value, self.good = self.value * 2, 0
