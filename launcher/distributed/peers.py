"""The ranks of a start as their store shows them: the host of each, and which of them have come to a call."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch.distributed as dist

from launcher.config.env_vars import NCCL_INTERFACE
from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.stop_requests import after, interruptible

T = TypeVar("T")
_ADVICE = f"(NCCL_DEBUG=INFO shows where; {NCCL_INTERFACE} names the interface, NCCL_IB_DISABLE=1 avoids InfiniBand)"
_PATIENCE_SECONDS = 150.0
"""Seconds for a call to end after all ranks have come to it, and between two looks whether they have. NCCL connects
thousands of ranks in less, and waits without a limit."""


def never() -> bool:
    """Return False, as the answer of a rank that nothing asks to stop."""
    return False


@dataclass(frozen=True)
class Peers:
    """The ranks of a world of `world`, seen by rank `rank`. `store`: store of this attempt's rendezvous."""

    store: dist.Store
    rank: int
    world: int

    def register(self, host: str) -> None:
        """Publish the host of this rank."""
        self.store.set(_host_key(self.rank), host)

    def hosts(self) -> list[str]:
        """Return the host of each rank, in the order of ranks. Waits for ranks that have not registered yet."""
        return [name.decode() for name in self.store.multi_get([_host_key(rank) for rank in range(self.world)])]

    def describe(self, rank: int) -> str:
        """Return `rank R on HOST`, without the host if that rank has not registered."""
        key = _host_key(rank)
        return f"rank {rank} on {self.store.get(key).decode()}" if self.store.check([key]) else f"rank {rank}"

    def call(self, what: str, function: Callable[[], T], seconds: float, should_stop: Callable[[], bool] = never) -> T:
        """Return the result of a function in which this rank waits for the others.

        `what`: a verb that names the call. Raises UnreachablePeer if the call lasts longer than `seconds`, or does not
        end after all ranks have come to it; it names the ranks that have not come. Raises StoppedBeforeTraining if
        `should_stop` becomes true.
        """
        others = replace(self, store=self.store.clone())  # the call may block the connection of the other one
        others.store.set(f"{what}/{self.rank}", "")
        begin = time.monotonic()
        try:
            return interruptible(function, should_stop, overdue=others._overdue(what, seconds))
        except TimeoutError:
            late = others._late(what)
        waited = f"{others.describe(self.rank)} has waited {time.monotonic() - begin:.0f} s"
        if late:
            raise UnreachablePeer(f"{waited} for {', '.join(map(others.describe, late))} to {what}")
        hosts = ", ".join(dict.fromkeys(others.hosts()))
        raise UnreachablePeer(f"{waited} to {what}, and all ranks have come: no data passes on {hosts} {_ADVICE}")

    def _late(self, what: str) -> list[int]:
        """Return the ranks that have not come to a call."""
        return [rank for rank in range(self.world) if not self.store.check([f"{what}/{rank}"])]

    def _overdue(self, what: str, seconds: float) -> Callable[[], bool]:
        """Return a function for whether the call lasts too long. It looks for the other ranks now and then."""
        expired, patient, all_came = after(seconds), after(_PATIENCE_SECONDS), False

        def overdue() -> bool:
            nonlocal patient, all_came
            if patient():
                if all_came:
                    return True
                patient, all_came = after(_PATIENCE_SECONDS), not self._late(what)
            return expired()

        return overdue


def _host_key(rank: int) -> str:
    return f"host/{rank}"
