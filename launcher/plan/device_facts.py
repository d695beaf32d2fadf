"""Devices of a node, and reasons why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


class Reason(NamedTuple):
    """Why a device cannot be used. `what`: a sentence; `advice`: what to do. `mistake`: the device is not set up, which
    no start may pass over."""

    what: str
    advice: str = ""
    mistake: bool = False

    def with_advice(self, *more: str) -> str:
        """Return the sentence, and all advice in parentheses."""
        advice = ", or ".join(filter(None, (self.advice, *more)))
        return f"{self.what} ({advice})" if advice else self.what


@dataclass(frozen=True)
class Device:
    """One device.

    `memory`: bytes; None: not known. `bf16`: whether it computes in bf16. `problem`: why no rank can use it; empty: one
    can. `warning`: what may disturb a rank on it; empty: nothing is known.
    """

    name: str = ""
    memory: int | None = None
    bf16: bool = True
    problem: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Devices:
    """Devices of a node.

    `memory`: bytes of the smallest, or of the whole machine for cpu; None: not known. `each`: the devices by their
    index; empty: they are on another machine, or the CPU. `sliced`: they are MIG slices. `reason`: why there is none of
    the type that the profile requires. `notes`: remarks for the user.
    """

    kind: str
    count: int
    memory: int | None
    each: tuple[Device, ...] = ()
    sliced: bool = False
    reason: Reason | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the devices; empty: not known, or they differ."""
        names = {device.name for device in self.each}
        return names.pop() if len(names) == 1 else ""

    def of_each_rank(self, ranks: int) -> "Devices":
        """Return the devices of a node if each of its ranks sees only its own, as under `srun --gpus-per-task`."""
        return self if self.count != 1 else replace(self, count=ranks, each=self.each * ranks, sliced=False)


def smallest(sizes: Sequence[int | None]) -> int | None:
    """Return the smallest of the known sizes; None: none is known."""
    known = [size for size in sizes if size is not None]
    return min(known) if known else None
