"""The process group of a rank: its number and device, and the collectives by which ranks exchange values."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from launcher.config.env_vars import GLOO_INTERFACE
from launcher.config.errors import first_line
from launcher.distributed.launch_env import RankInfo as RankInfo
from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.rank_device import check_distinct, check_same_type, own_device
from launcher.distributed.stop_requests import interruptible
from launcher.plan.topology import cores

T = TypeVar("T")
Record = TypeVar("Record", bound=np.generic)
TIMEOUT = timedelta(minutes=30)
_EXCHANGE_TIMEOUT = timedelta(seconds=20)
_ADVICE = f"(set {GLOO_INTERFACE} to the network interface by which the hosts reach each other)"


@dataclass(frozen=True)
class ProcessGroup:
    """The connected process group, as one rank sees it. A world of 1 has no group of torch.

    `tensor_parallel`: number of neighbouring ranks that split each sample's computation. `store`: store of the ranks'
    rendezvous.
    """

    rank: int
    world: int
    device: torch.device
    tensor_parallel: int = 1
    store: dist.Store | None = field(default=None, compare=False, repr=False)

    @property
    def data_parallel_size(self) -> int:
        """Number of shares that a global batch is split into."""
        return self.world // self.tensor_parallel

    @property
    def data_parallel_rank(self) -> int:
        """Index of the share that this rank works on."""
        return self.rank // self.tensor_parallel

    @property
    def leads(self) -> bool:
        """Whether this rank counts its share: it is the first of the ranks that work on the same share."""
        return self.rank % self.tensor_parallel == 0

    def all_gather(self, record: NDArray[Record]) -> NDArray[Record]:
        """Return every rank's record in the order of ranks: shape (world, *record.shape).

        The result is the same on every rank, so that all ranks decide the same from it.
        """
        if self.world == 1:
            return record[None]
        mine = torch.frombuffer(bytearray(record.tobytes()), dtype=torch.uint8)
        every = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(every, mine)
        joined = torch.cat(every).numpy().tobytes()
        return np.frombuffer(joined, dtype=record.dtype).reshape(self.world, *record.shape)

    def broadcast(self, value: T | None) -> T:
        """Broadcast the value of rank 0 to all ranks, and return it. `value`: ignored on other ranks."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return cast(T, values[0])

    def all_gather_objects(self, value: T) -> list[T]:
        """Return every rank's value, of any size, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value)
        return cast(list[T], values)

    def first_to_claim(self, name: str) -> bool:
        """Return whether no rank has claimed this name before.

        This is no collective, because other ranks may be waiting in one. It is also False if the store is gone: the
        store ends with rank 0, which has then reported why it ended.
        """
        if self.store is None:
            return True
        try:
            return bool(self.store.add(f"claimed/{name}", 1) == 1)
        except dist.DistError:
            return False

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            self.all_gather(np.zeros(1, dtype=np.int8))

    def ensure_initialized(self) -> None:
        """Create a process group even if this rank is alone, for libraries that require one. No port is opened."""
        if not dist.is_initialized():
            dist.init_process_group(
                _backend(self.device), store=dist.HashStore(), rank=0, world_size=1, device_id=_device_id(self.device)
            )

    def close(self) -> None:
        """Destroy the group, if there is one."""
        if dist.is_initialized():
            dist.destroy_process_group()


def connect(
    info: RankInfo,
    device: str | None = None,
    store: dist.Store | None = None,
    timeout: timedelta = TIMEOUT,
    should_stop: Callable[[], bool] | None = None,
) -> ProcessGroup:
    """Connect the process group. The host's cores are divided among its ranks, unless OMP_NUM_THREADS is set.

    `device`: type of the rank's device; None: decided here. `store`: store of the rendezvous; without one, MASTER_ADDR
    and MASTER_PORT name it. `timeout`: how long a rank waits for the others. Raises UnreachablePeer, UserError if there
    is no device for this rank, and StoppedBeforeTraining if `should_stop` becomes true before the group is connected.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // info.local_world))
    own = own_device(info, device)
    if own.type != "cpu":
        torch.accelerator.set_device_index(own.index)
    if store is not None:
        check_distinct(info, own, store, should_stop)
        if device is None:
            check_same_type(info, own, store, should_stop)
    if info.world > 1:
        if info.local_world == info.world:
            os.environ.setdefault(GLOO_INTERFACE, "lo")
        initialize = partial(
            dist.init_process_group, _backend(own), init_method="env://" if store is None else None,
            store=store, rank=info.rank, world_size=info.world, timeout=timeout, device_id=_device_id(own),
        )  # fmt: skip
        try:
            initialize() if should_stop is None else interruptible(initialize, should_stop)
        except RuntimeError as error:
            what = f"rank {info.rank} could not connect to the others: {first_line(error)} {_ADVICE}"
            raise UnreachablePeer(what) from error
    return ProcessGroup(info.rank, info.world, own, store=store)


def exchange(process: ProcessGroup, hosts: Sequence[str], timeout: timedelta = _EXCHANGE_TIMEOUT) -> None:
    """Exchange a message between every pair of ranks, so that a blocked connection is found now and not in an hour.

    `hosts`: the host of each rank. Raises UnreachablePeer that names both ranks.
    """
    mine, theirs = torch.tensor([process.rank]), torch.zeros(1, dtype=torch.long)
    for apart in range(1, process.world):
        to, by = (process.rank + apart) % process.world, (process.rank - apart) % process.world
        peer = to
        try:
            sent = dist.isend(mine, to, tag=apart)
            peer = by
            dist.irecv(theirs, by, tag=apart).wait(timeout)
            peer = to
            sent.wait(timeout)
        except RuntimeError as error:
            pair = f"rank {process.rank} on {hosts[process.rank]} and rank {peer} on {hosts[peer]}"
            raise UnreachablePeer(f"{pair} cannot exchange a message: {first_line(error)} {_ADVICE}") from error


def _device_id(device: torch.device) -> torch.device | None:
    """Return the device that a group is bound to, so that NCCL connects at once and on this device; None for a CPU."""
    return None if device.type == "cpu" else device


def _backend(device: torch.device) -> str:
    """Return the backend: gloo, and beside it the one for an accelerator's tensors."""
    if device.type == "cpu":
        return "gloo"
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device.type)}"
