"""One rank among the others: who it is, on which device, and how ranks agree."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from launcher.config.errors import UserError, first_line
from launcher.distributed.interruptible_wait import patiently
from launcher.distributed.launch_env import Place as Place
from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.launch_env import place as place
from launcher.plan.topology import cores

TIMEOUT = timedelta(minutes=30)
_GREETING = timedelta(seconds=20)
_ADVICE = "(set GLOO_SOCKET_IFNAME to the network interface by which the hosts reach each other)"


@dataclass(frozen=True)
class Process:
    """A rank whose group is connected (world 1 has none). `tensor_parallel` neighbouring ranks share each sample."""

    rank: int
    world: int
    device: torch.device
    tensor_parallel: int = 1

    @property
    def data_parallel_size(self) -> int:
        """How many shares a global batch falls into."""
        return self.world // self.tensor_parallel

    @property
    def data_parallel_rank(self) -> int:
        """Which of them this rank works on."""
        return self.rank // self.tensor_parallel

    @property
    def leads(self) -> bool:
        """Whether this rank, of those that work on its share, is the one that counts it."""
        return self.rank % self.tensor_parallel == 0

    def gather(self, record: NDArray[Any]) -> NDArray[Any]:
        """Every rank's record, in the order of ranks: shape (world, *record.shape). What is decided from it is decided
        alike everywhere."""
        if self.world == 1:
            return record[None]
        mine = torch.frombuffer(bytearray(record.tobytes()), dtype=torch.uint8)
        every = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(every, mine)
        joined = torch.cat(every).numpy().tobytes()
        return np.frombuffer(joined, dtype=record.dtype).reshape(self.world, *record.shape)

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Every rank's value, of any size, in the order of ranks."""
        if self.world == 1:
            return [value]
        every: list[Any] = [None] * self.world
        dist.all_gather_object(every, value)
        return every

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            self.gather(np.zeros(1, dtype=np.int8))

    def group(self) -> None:
        """Have a process group also where this rank is alone, for libraries that ask for one; nothing listens."""
        if not dist.is_initialized():
            dist.init_process_group(_backend(self.device), store=dist.HashStore(), rank=0, world_size=1)

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def require(device: str) -> None:
    """Raises RuntimeError where this host has no such device: what was planned for a GPU does not train on the CPU. (No
    UserError, which would let the ranks of other hosts wait for this one.)"""
    found = None if device == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if device != "cpu" and (found is None or found.type != device):
        what = f"{socket.gethostname()} has no {device} device that torch can use"
        raise RuntimeError(f"{what} (cluster.device=cpu trains on the CPU)")


def connect(
    at: Place,
    device: str | None = None,
    store: dist.Store | None = None,
    timeout: timedelta = TIMEOUT,
    told: Callable[[], bool] | None = None,
) -> Process:
    """Join the group. `device`: cpu to leave an accelerator alone. `store`: where the ranks meet; without one they meet
    as the environment says (MASTER_ADDR, MASTER_PORT). `timeout`: for which a rank waits for the others before it gives
    up; `told`: whether to leave meanwhile, which raises Told. The cores are shared out, unless OMP_NUM_THREADS says how
    many each rank gets."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // at.local_world))
    accelerator = None if device == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if at.world > 1:
        if at.local_world == at.world:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        where: dict[str, Any] = {"init_method": "env://"} if store is None else {"store": store}
        where |= {"rank": at.rank, "world_size": at.world, "timeout": timeout}
        try:
            join = partial(dist.init_process_group, _backend(accelerator), **where)
            join() if told is None else patiently(join, told)
        except RuntimeError as error:
            raise UnreachablePeer(_unconnected(at, error)) from error
    if accelerator is None:
        return Process(at.rank, at.world, torch.device("cpu"))
    index = device_index(at, torch.accelerator.device_count(), accelerator.type)
    torch.accelerator.set_device_index(index)
    return Process(at.rank, at.world, torch.device(accelerator.type, index))


def device_index(at: Place, count: int, kind: str, environment: Mapping[str, str] = os.environ) -> int:
    """Which of the devices that a rank sees is its own: of several the one with its local number; a single one where
    its starter gave each rank one of its own. Raises UserError where ranks outnumber devices."""
    if at.local_rank < count and at.local_world <= count:
        return at.local_rank
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    given = on_node.isdecimal() and int(on_node) >= at.local_world
    if count == 1 and (given or ("CUDA_VISIBLE_DEVICES" in environment and "OMPI_COMM_WORLD_RANK" in environment)):
        return 0
    what = f"{at.local_world} ranks on this host for {count} {kind} device(s)"
    raise UserError(f"{what} (one rank a device at the most; CUDA_VISIBLE_DEVICES= for the CPU)")


def exchange(process: Process, hosts: Sequence[str], timeout: timedelta = _GREETING) -> None:
    """Every pair of ranks exchanges a message, so that a way that is closed is found now and not in an hour. `hosts`:
    where each rank runs. Raises UnreachablePeer that names the two."""
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


def _unconnected(at: Place, error: Exception) -> str:
    return f"rank {at.rank} could not connect to the others: {first_line(error)} {_ADVICE}"


def _backend(device: torch.device | None) -> str:
    """What ranks talk through: gloo, and beside it what suits an accelerator's tensors."""
    if device is None or device.type == "cpu":
        return "gloo"
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device.type)}"
