"""One rank among the others: who it is, on which device, and how ranks agree."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from launcher.config.errors import UserError
from launcher.plan.devices import cores

_STARTERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "Slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
}  # fmt: skip
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Place:
    """Where a rank stands, by what started it."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place told by torchrun (accelerate speaks its language), an MPI, or Slurm's srun; alone where none does.

    Slurm's names count only inside a job step: a batch script has them too, and is not a rank.
    """
    for starter, (rank, world, local_rank, local_world) in _STARTERS.items():
        if rank not in environment or world not in environment:
            continue
        if starter == "Slurm" and "SLURM_STEP_ID" not in environment:
            continue
        numbers = [environment.get(name, "") for name in (rank, world, local_rank, local_world)]
        given = [int(n) if n.isdigit() else None for n in numbers]
        if given[0] is None or given[1] is None or not given[0] < given[1]:
            raise UserError(f"{rank}={numbers[0]}, {world}={numbers[1]}: no rank of a world (set by {starter}?)")
        return Place(given[0], given[1], given[2] or 0, given[3] or given[1])
    return Place()


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


def connect(
    at: Place, device: str | None = None, store: dist.Store | None = None, timeout: timedelta = TIMEOUT
) -> Process:
    """Join the group. `device`: cpu to leave an accelerator alone. `store`: where the ranks meet; without one they meet
    as the environment says (MASTER_ADDR, MASTER_PORT). `timeout`: for which a rank waits for the others before it gives
    up. The cores are shared out, unless OMP_NUM_THREADS says how many each rank gets."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // at.local_world))
    accelerator = None if device == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if at.world > 1:
        if at.local_world == at.world:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = _backend(accelerator)
        where: dict[str, Any] = {"init_method": "env://"} if store is None else {"store": store}
        dist.init_process_group(backend, rank=at.rank, world_size=at.world, timeout=timeout, **where)
    if accelerator is None:
        return Process(at.rank, at.world, torch.device("cpu"))
    torch.accelerator.set_device_index(at.local_rank)
    return Process(at.rank, at.world, torch.device(accelerator.type, at.local_rank))


def _backend(device: torch.device | None) -> str:
    """What ranks talk through: gloo, and beside it what suits an accelerator's tensors."""
    if device is None or device.type == "cpu":
        return "gloo"
    return f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device.type)}"
