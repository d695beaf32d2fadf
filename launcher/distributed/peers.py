"""The ranks of a start as their store shows them: the host of each, and which of them have come to a call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from launcher.config.env_vars import NCCL_INTERFACE
from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.stop_requests import interruptible

T = TypeVar("T")
_ADVICE = f"(NCCL_DEBUG=INFO shows where; {NCCL_INTERFACE} names the interface, NCCL_IB_DISABLE=1 avoids InfiniBand)"


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

        `what`: a verb that names the call. Raises UnreachablePeer if the call lasts longer than `seconds`: it names the
        ranks that have not come to it. Raises StoppedBeforeTraining if `should_stop` becomes true.
        """
        self.store.set(f"{what}/{self.rank}", "")
        try:
            return interruptible(function, should_stop, seconds=seconds)
        except TimeoutError:
            late = [rank for rank in range(self.world) if not self.store.check([f"{what}/{rank}"])]
        waited = f"{self.describe(self.rank)} has waited {seconds:.0f} s"
        if late:
            raise UnreachablePeer(f"{waited} for {', '.join(map(self.describe, late))} to {what}")
        hosts = ", ".join(dict.fromkeys(self.hosts()))
        raise UnreachablePeer(f"{waited} to {what}, and all ranks have come: no data passes on {hosts} {_ADVICE}")


def _host_key(rank: int) -> str:
    return f"host/{rank}"
