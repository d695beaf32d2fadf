"""Where a rank stands among the others, as told by what started it, and what in its environment cannot be true."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from launcher.config.errors import UserError


class UnreachablePeer(Exception):
    """Ranks that do not find or hear each other: a sentence that names them."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands, by what started it."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


@dataclass(frozen=True)
class Starter:
    """The variables in which a starter tells a rank its place; of several for the same thing the first that is set."""

    name: str
    rank: str
    world: tuple[str, ...]
    local_rank: str
    local_world: tuple[str, ...]

    def has(self, environment: Mapping[str, str]) -> bool:
        return self.rank in environment and any(name in environment for name in self.world)

    def told(self, environment: Mapping[str, str]) -> tuple[str, str]:
        """The rank and the world, as they are written."""
        return environment[self.rank], environment[_first(self.world, environment)]


TORCHRUN = Starter("torchrun", "RANK", ("WORLD_SIZE",), "LOCAL_RANK", ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"))
"""And accelerate, which speaks its language, and DeepSpeed's launcher, in whose dialect it is LOCAL_SIZE."""
OPEN_MPI = Starter(
    "Open MPI", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",),
    "OMPI_COMM_WORLD_LOCAL_RANK", ("OMPI_COMM_WORLD_LOCAL_SIZE",),
)  # fmt: skip
MPI = Starter("MPI", "PMI_RANK", ("PMI_SIZE",), "MPI_LOCALRANKID", ("MPI_LOCALNRANKS",))
"""MPICH and its relatives."""
SLURM = Starter(
    "Slurm", "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    "SLURM_LOCALID", ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"),
)  # fmt: skip
_LAST_STEP = 0xFFFFFFF0
"""Above are the numbers that Slurm has for what is no step of srun: the batch script, an interactive shell."""
_COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


LOOPBACK = "127.0.0.1"


def starter(environment: Mapping[str, str] = os.environ) -> Starter | None:
    """What started this rank: the innermost where there are several; None where it was started alone."""
    if TORCHRUN.has(environment):
        return TORCHRUN
    if OPEN_MPI.has(environment):
        return OPEN_MPI
    by_srun, by_pmi = _in_step(environment) and SLURM.has(environment), MPI.has(environment)
    if by_srun and by_pmi:  # srun speaks PMI too, and knows more than it says there
        return SLURM if SLURM.told(environment) == MPI.told(environment) else MPI
    return SLURM if by_srun else MPI if by_pmi else None


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place told by torchrun (accelerate, DeepSpeed's launcher), an MPI, or Slurm's srun; alone where none does.
    Raises UserError where what is told is no place."""
    by = starter(environment)
    if by is None:
        return Place()
    rank, world = by.told(environment)
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        names = f"{by.rank}={rank}, {_first(by.world, environment)}={world}"
        raise UserError(f"{names}: no rank of a world (set by {by.name}?)")
    local_rank = environment.get(by.local_rank, "")
    every = environment.get(_first(by.local_world, environment), "")
    node = environment.get("SLURM_NODEID", "") if by is SLURM else ""
    counts = list(_counts(every))
    local_world = counts[min(int(node) if node.isdecimal() else 0, len(counts) - 1)] if counts else int(world)
    return Place(int(rank), int(world), int(local_rank) if local_rank.isdecimal() else 0, local_world)


def one_host(at: Place, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the starter has said that all ranks share this host; what it leaves out may be otherwise."""
    by = starter(environment)
    said = by is not None and bool(environment.get(_first(by.local_world, environment)))
    return said and at.world == at.local_world


def contradictions(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What in the environment of a worker cannot be true together: one sentence each, with what to do."""
    found = [_half(environment), _two_starters(environment), _left_alone(environment), _half_an_address(environment)]
    return [what for what in found if what]


def _half(environment: Mapping[str, str]) -> str:
    """RANK without WORLD_SIZE, or the reverse: unless it is only what another starter says too."""
    names = ("RANK", "WORLD_SIZE")
    given = [name for name in names if name in environment]
    if len(given) != 1:
        return ""
    by = starter(environment)
    if by is not None and environment[given[0]] == by.told(environment)[names.index(given[0])]:
        return ""
    missing = next(name for name in names if name not in given)
    what = f"{given[0]}={environment[given[0]]} is set and {missing} is not"
    return f"{what} (left over from another start? unset {given[0]}, or set both)"


def _two_starters(environment: Mapping[str, str]) -> str:
    """A world within each process of another, whose processes know nothing of each other."""
    if not TORCHRUN.has(environment):
        return ""
    agents = environment.get("GROUP_WORLD_SIZE", environment.get("CROSS_SIZE", ""))
    restarted = environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # with fewer agents, it may be
    for by, command in ((OPEN_MPI, "mpirun"), (MPI, "mpirun"), (SLURM, "srun")):
        if not by.has(environment) or (by is SLURM and not _in_step(environment)) or restarted:
            continue
        rank, tasks = by.told(environment)
        if agents.isdecimal() and tasks.isdecimal() and int(tasks) > int(agents):
            what = f"{command} started {tasks} tasks, and torchrun in each a world of {agents} agent(s) of its own"
            return f"{what} (one task a node and torchrun --nnodes, or {command} python -m launcher.worker R)"
        if not agents and tasks != "1" and (rank, tasks) != TORCHRUN.told(environment):
            mine = "RANK={} of WORLD_SIZE={}".format(*TORCHRUN.told(environment))
            what = f"{mine}, but {by.rank}={rank} of {_first(by.world, environment)}={tasks}"
            return f"{what}: two starters that do not know each other (unset RANK and WORLD_SIZE)"
    return ""


def _left_alone(environment: Mapping[str, str]) -> str:
    nodes = environment.get("SLURM_JOB_NUM_NODES", environment.get("SLURM_NNODES", ""))
    if not nodes.isdecimal() or int(nodes) < 2 or starter(environment) is not None:
        return ""
    what = f"this allocation has {nodes} nodes and the worker was started alone on one of them"
    return f"{what} (srun python -m launcher.worker R; srun -N 1 -n 1 for one rank)"


def _half_an_address(environment: Mapping[str, str]) -> str:
    names = ("MASTER_ADDR", "MASTER_PORT")
    given = [name for name in names if environment.get(name)]
    if starter(environment) is None:
        return ""
    if len(given) == 1:
        missing = next(name for name in names if name not in given)
        what = f"{given[0]}={environment[given[0]]} is set and {missing} is not"
        return f"{what} (both or none: ranks of srun and mpirun meet without them)"
    port = environment.get("MASTER_PORT", "")
    if given and not (port.isdecimal() and 0 < int(port) < 65536):
        return f"MASTER_PORT={port} is no port (1 to 65535)"
    return ""


def _in_step(environment: Mapping[str, str]) -> bool:
    """A batch script has Slurm's names too, and is no rank."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < _LAST_STEP


def _counts(every: str) -> Iterator[int]:
    """The tasks of each node in Slurm's way of writing: 2(x3),1 is 2, 2, 2, 1."""
    for number, times in _COUNTS.findall(every):
        yield from [int(number)] * int(times or 1)


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    return next((name for name in names if environment.get(name)), names[0])
