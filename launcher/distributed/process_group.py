"""The process group of a rank: its number and device, and the collectives by which ranks exchange values."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from launcher.config.env_vars import GLOO_INTERFACE, NCCL_INTERFACE
from launcher.config.errors import first_line
from launcher.distributed import launch_env
from launcher.distributed.launch_env import RankInfo as RankInfo
from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.peers import Peers, never
from launcher.distributed.rank_device import check_distinct, check_same_type, own_device
from launcher.distributed.stop_requests import after, interruptible
from launcher.plan.topology import cores

T = TypeVar("T")
Record = TypeVar("Record", bound=np.generic)
TIMEOUT = timedelta(minutes=30)
_EXCHANGE_TIMEOUT = timedelta(seconds=20)
_ALL_REDUCE_SECONDS = 120.0
"""Seconds for the first all-reduce. NCCL makes its connections in it, on many hosts for tens of seconds."""
_MARGIN_SECONDS = 5.0
"""Seconds after the timeout of a group for its library to report the timeout itself."""
_CLOSE_SECONDS = 30.0
_FIRST_ALL_REDUCE = "complete the first all-reduce"
_ADVICE = f"(set {GLOO_INTERFACE} to the network interface by which the hosts reach each other)"


@dataclass(frozen=True)
class ProcessGroup:
    """The connected process group, as one rank sees it. A world of 1 has no group of torch.

    `tensor_parallel`: number of neighbouring ranks that split each sample's computation. `store`: store of the ranks'
    rendezvous. `timeout`: how long a collective waits for the other ranks. `group`: the connections; None: those of
    torch's default group.
    """

    rank: int
    world: int
    device: torch.device
    tensor_parallel: int = 1
    store: dist.Store | None = field(default=None, compare=False, repr=False)
    timeout: timedelta = field(default=TIMEOUT, compare=False, repr=False)
    group: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)

    def apart(self, timeout: timedelta) -> "ProcessGroup":
        """Return the same ranks with gloo connections of their own, for collectives of another thread. All ranks call
        it."""
        if self.world == 1:
            return self
        return replace(self, group=dist.new_group(backend="gloo", timeout=timeout), timeout=timeout)

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
        dist.all_gather(every, mine, group=self.group)
        joined = torch.cat(every).numpy().tobytes()
        return np.frombuffer(joined, dtype=record.dtype).reshape(self.world, *record.shape)

    def all_gather_scalar(self, scalar: torch.Tensor) -> torch.Tensor:
        """Return every rank's scalar in the order of ranks, shape (world,), on its device. The host does not wait for
        an accelerator."""
        if self.world == 1:
            return scalar[None]
        every = scalar.new_empty(self.world)
        dist.all_gather(list(every.split(1)), scalar[None], group=self.group)
        return every

    def broadcast(self, value: T | None) -> T:
        """Broadcast the value of rank 0 to all ranks, and return it. `value`: ignored on other ranks."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0, group=self.group, device=torch.device("cpu"))
        return cast(T, values[0])

    def all_gather_objects(self, value: T) -> list[T]:
        """Return every rank's value, of any size, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[T | None] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return cast(list[T], values)

    def gather_objects(self, value: T) -> list[T] | None:
        """Return every rank's value to rank 0, in the order of ranks; None on other ranks."""
        if self.world == 1:
            return [value]
        values: list[T | None] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return cast(list[T] | None, values)

    def scatter_objects(self, values: list[T] | None) -> T:
        """Return this rank's value of those that rank 0 passes. `values`: ignored on other ranks."""
        if self.world == 1:
            assert values is not None
            return values[0]
        own: list[T | None] = [None]
        dist.scatter_object_list(own, values, src=0, group=self.group)
        return cast(T, own[0])

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

    def set_timeouts(self) -> None:
        """Set the timeout of all groups that exist.

        torch gives the groups of a device mesh, and those that DeepSpeed makes, a default of its own.
        """
        for group in list(dist.distributed_c10d._world.pg_map):
            dist.distributed_c10d._set_pg_timeout(self.timeout, group)

    @property
    def peers(self) -> Peers:
        """The ranks of this group, of which there is more than one, and their hosts."""
        assert self.store is not None
        return Peers(self.store, self.rank, self.world)

    def close(self) -> None:
        """Destroy the group, if there is one, after success only: NCCL waits for what the other ranks still owe it.

        If it waits too long, as for a rank that has died meanwhile, the group ends with this process.
        """
        if dist.is_initialized():
            with suppress(TimeoutError):
                interruptible(dist.destroy_process_group, never, overdue=after(_CLOSE_SECONDS))


def connect(
    info: RankInfo,
    device: str | None = None,
    store: dist.Store | None = None,
    timeout: timedelta = TIMEOUT,
    should_stop: Callable[[], bool] = never,
    host: str = "",
) -> ProcessGroup:
    """Connect the process group. The host's cores are divided among its ranks, unless OMP_NUM_THREADS is set.

    `device`: type of the rank's device; None: decided here. `store`: store of the rendezvous, for this attempt only;
    not needed by a rank that is alone. `timeout`: how long a rank waits for the others. `host`: name of this host;
    empty: as it calls itself. Raises UnreachablePeer, UserError if there is no device for this rank, and
    StoppedBeforeTraining if `should_stop` becomes true before the group is connected.
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
    process = ProcessGroup(info.rank, info.world, own, store=store, timeout=timeout)
    if info.world == 1:
        return process
    process.peers.register(host or launch_env.host_name())
    if info.local_world == info.world:
        for name in (GLOO_INTERFACE, NCCL_INTERFACE):
            os.environ.setdefault(name, "lo")
    initialize = partial(
        dist.init_process_group, _backend(own),
        store=store, rank=info.rank, world_size=info.world, timeout=timeout, device_id=_device_id(own),
    )  # fmt: skip
    try:
        process.peers.call("connect", initialize, timeout.total_seconds() + _MARGIN_SECONDS, should_stop)
    except RuntimeError as error:
        what = f"rank {info.rank} could not connect to the others: {_reason(error)} {_ADVICE}"
        raise UnreachablePeer(what) from error
    return process


def exchange(process: ProcessGroup, timeout: timedelta = _EXCHANGE_TIMEOUT) -> None:
    """Exchange a message between every pair of ranks, so that a blocked connection is found now and not in an hour.

    Raises UnreachablePeer that names both ranks.
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
            pair = f"{process.peers.describe(process.rank)} and {process.peers.describe(peer)}"
            raise UnreachablePeer(f"{pair} cannot exchange a message: {first_line(error)} {_ADVICE}") from error


def first_all_reduce(
    process: ProcessGroup, seconds: float = _ALL_REDUCE_SECONDS, should_stop: Callable[[], bool] = never
) -> None:
    """Add up a number over all ranks on their devices, so that devices which pass no data are found before training.

    Raises UnreachablePeer, which names the ranks that did not take part and their hosts, RuntimeError if the sum is
    wrong, and StoppedBeforeTraining.
    """
    if process.world == 1:
        return
    try:
        total = process.peers.call(_FIRST_ALL_REDUCE, partial(_sum_of_ones, process), seconds, should_stop)
    except RuntimeError as error:
        what = f"{process.peers.describe(process.rank)} could not {_FIRST_ALL_REDUCE} on {process.device}"
        raise UnreachablePeer(f"{what}: {_reason(error)}") from error
    if total != process.world:
        what = f"the first all-reduce over {process.world} ranks gave {total:g} for a sum of ones"
        where = f"{process.device} of {process.peers.describe(process.rank)}"
        raise RuntimeError(f"{what} on {where}: the devices exchange wrong data (try NCCL_P2P_DISABLE=1)")


def _reason(error: RuntimeError) -> str:
    """Return the first line of a library's error, and what NCCL reports as its last error, which names the address."""
    last = str(error).partition("Last error:")[2].strip().splitlines()
    return ": ".join([first_line(error), *last[:1]])


def _sum_of_ones(process: ProcessGroup) -> float:
    ones = torch.ones(1, device=process.device)
    dist.all_reduce(ones)
    return float(ones)


def _device_id(device: torch.device) -> torch.device | None:
    """Return the device that a group is bound to, so that NCCL connects at once and on this device; None for a CPU."""
    return None if device.type == "cpu" else device


def _backend(device: torch.device) -> str:
    """Return the backend: gloo, and beside it the one for an accelerator's tensors."""
    if device.type == "cpu":
        return "gloo"
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device.type)}"
