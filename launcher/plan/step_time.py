"""Predicted seconds of a training step: arithmetic, memory traffic, communication that nothing hides, and the host.

`docs/scaling.md` has the formula, and compares it with published figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.config.base_model import Strict
from launcher.plan.collectives import Collective, LinkRates, seconds

LAUNCH = 5e-6
"""Seconds in which a host launches a kernel. A typical value, which was not measured here."""
HOST = 2e-3
"""Seconds of a step on an accelerator besides its kernels: the exchange about its batch, the optimiser's call, the
loader. A typical value, which was not measured here."""


@dataclass(frozen=True)
class DeviceRates:
    """What a device reaches, in FLOP/s and bytes per second. `asynchronous`: it runs kernels that a host launches, and
    communicates beside them."""

    flops: float
    memory: float
    asynchronous: bool = True


@dataclass(frozen=True)
class StepWork:
    """What the rank with the largest share does in a step.

    `operations`: floating-point operations, those of padding and recomputation included. `traffic`: bytes that
    element-wise operations and weights move in the forward and backward passes; `update`: those of the optimiser.
    `forward`: fraction of the passes' time in the forward. `kernels`: number of kernels in the passes.
    """

    operations: float
    traffic: float
    update: float
    micro_batches: int
    forward: float = 1 / 3
    kernels: float = 0.0


class StepTime(Strict):
    """Seconds of a training step by what they are for."""

    arithmetic: float
    """Matrix products."""
    memory: float
    """Reading and writing the device's memory: element-wise operations, weights, the optimiser's update."""
    communication: float
    """Communication that nothing hides."""
    host: float
    """Kernels that the host launches slower than the device computes them, and all else that it does."""
    hidden: float = 0.0
    """Communication beside the computation, which is no part of the total."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.arithmetic + self.memory + self.communication + self.host

    @property
    def bound(self) -> str:
        """The largest part."""
        parts = {name: getattr(self, name) for name in ("arithmetic", "memory", "communication", "host")}
        return max(parts, key=parts.__getitem__)


def predict(work: StepWork, device: DeviceRates, links: LinkRates, collectives: Sequence[Collective]) -> StepTime:
    """Return the time of a step. Pure."""
    arithmetic, passes, update = work.operations / device.flops, work.traffic / device.memory, work.update
    computing = arithmetic + passes
    late = max(0.0, work.kernels * LAUNCH - computing) if device.asynchronous else 0.0
    spent = _sum(collectives, links)
    if device.asynchronous:
        in_forward, in_backward, in_last = (
            [one for one in collectives if one.phase == phase and not one.waits]
            for phase in ("forward", "backward", "last backward")
        )
        forward, backward = (computing + late) * work.forward, (computing + late) * (1 - work.forward)
        last = max(0.0, (backward - _sum(in_backward, links)) / work.micro_batches)
        hidden = (
            _hidden(in_forward, forward, links) + _hidden(in_backward, backward, links) + _hidden(in_last, last, links)
        )
    else:
        hidden = 0.0
    return StepTime(
        arithmetic=arithmetic,
        memory=passes + update / device.memory,
        communication=spent - hidden,
        host=late + (HOST if device.asynchronous else 0.0),
        hidden=hidden,
    )


def _sum(collectives: Sequence[Collective], links: LinkRates) -> float:
    return sum(seconds(one, links) for one in collectives)


def _hidden(collectives: Sequence[Collective], computing: float, links: LinkRates) -> float:
    """Return the seconds of a phase's communication that run beside `computing` seconds. One call of each kind does
    not: the first gather is waited for, and the last reduction."""
    rest = sum(seconds(one, links) * (1 - 1 / max(1.0, one.calls)) for one in collectives)
    return min(rest, computing)
