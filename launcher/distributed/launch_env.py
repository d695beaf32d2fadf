"""The launch environment of a rank: the variables that torchrun, srun, an MPI or this launcher set for it."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.config import env_vars
from launcher.config.errors import UserError

LOOPBACK = "127.0.0.1"
_LAST_STEP = 0xFFFFFFF0
"""Upper limit of the step numbers of srun. Slurm uses larger numbers for the batch script, an interactive shell and so
on."""
_COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


class UnreachablePeer(Exception):
    """Error: ranks do not find each other, or cannot reach each other. The message names them."""


@dataclass(frozen=True)
class RankInfo:
    """The number of a rank among all `world` ranks, and among the `local_world` ranks of its host."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


@dataclass(frozen=True)
class Starter:
    """The variables in which a program that starts ranks describes them.

    If a value has several variables, the first one that is set counts.
    """

    name: str
    rank: str
    world: tuple[str, ...]
    local_rank: str
    local_world: tuple[str, ...]

    def is_set(self, environment: Mapping[str, str]) -> bool:
        return self.rank in environment and any(name in environment for name in self.world)

    def rank_and_world(self, environment: Mapping[str, str]) -> tuple[str, str]:
        """Return the values of the variables for the rank and for the world size."""
        return environment[self.rank], environment[_first_set(self.world, environment)]


TORCHRUN = Starter("torchrun", "RANK", ("WORLD_SIZE",), "LOCAL_RANK", ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"))
"""torchrun, accelerate, which sets the same variables, and DeepSpeed's launcher, which sets LOCAL_SIZE."""
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


def starter(environment: Mapping[str, str] = os.environ) -> Starter | None:
    """Return the program that started this rank; None: the rank was started alone.

    If several programs set their variables, it is the innermost one.
    """
    if TORCHRUN.is_set(environment):
        return TORCHRUN
    if OPEN_MPI.is_set(environment):
        return OPEN_MPI
    by_srun, by_pmi = _in_step(environment) and SLURM.is_set(environment), MPI.is_set(environment)
    if by_srun and by_pmi:  # srun sets variables of PMI too, but its own have more
        return SLURM if SLURM.rank_and_world(environment) == MPI.rank_and_world(environment) else MPI
    return SLURM if by_srun else MPI if by_pmi else None


def rank_info(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """Read the rank from the variables of torchrun (accelerate, DeepSpeed's launcher), an MPI, or srun.

    Without such variables the rank is alone. Raises UserError if the variables hold no rank of a world.
    """
    by = starter(environment)
    if by is None:
        return RankInfo()
    rank, world = by.rank_and_world(environment)
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        names = f"{by.rank}={rank}, {_first_set(by.world, environment)}={world}"
        raise UserError(f"{names}: no rank of a world (set by {by.name}?)")
    local_rank = environment.get(by.local_rank, "")
    node = environment.get("SLURM_NODEID", "") if by is SLURM else ""
    counts = list(_counts(environment.get(_first_set(by.local_world, environment), "")))
    local_world = counts[min(int(node) if node.isdecimal() else 0, len(counts) - 1)] if counts else int(world)
    return RankInfo(int(rank), int(world), int(local_rank) if local_rank.isdecimal() else 0, local_world)


def one_host(rank: RankInfo, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment shows that all ranks share this host. False: they do not, or it is not known."""
    by = starter(environment)
    known = by is not None and bool(environment.get(_first_set(by.local_world, environment)))
    return known and rank.world == rank.local_world


def host_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return the name by which other nodes reach this one.

    HOSTNAME is not used, because Slurm may pass on its value from the node on which the job began.
    """
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def allocated_nodes(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of nodes of this process's Slurm allocation; 0: there is none."""
    nodes = environment.get("SLURM_JOB_NUM_NODES", environment.get("SLURM_NNODES", ""))
    return int(nodes) if nodes.isdecimal() else 0


@dataclass(frozen=True)
class LauncherInfo:
    """The launcher that has called torchrun or accelerate, as its ranks know it from their environment.

    `folder`: folder of the start. `pid`: process id of the launcher. `timeout`: minutes for which ranks wait for each
    other. `device`: their type of device by the plan; None: not known.
    """

    folder: Path
    pid: int
    timeout: float
    device: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "LauncherInfo | None":
        """Read the launcher's variables; None: a person has called torchrun or accelerate."""
        if env_vars.START_FOLDER not in environment:
            return None
        folder = Path(environment[env_vars.START_FOLDER])
        pid, timeout = int(environment[env_vars.LAUNCHER_PID]), float(environment[env_vars.TIMEOUT])
        return cls(folder, pid, timeout, environment.get(env_vars.DEVICE))

    def variables(self) -> dict[str, str]:
        """Return the variables that `of` reads."""
        return {
            env_vars.START_FOLDER: str(self.folder),
            env_vars.LAUNCHER_PID: str(self.pid),
            env_vars.TIMEOUT: str(self.timeout),
            **({env_vars.DEVICE: self.device} if self.device else {}),
        }


def contradictions(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return one sentence for each contradiction between variables, with what to do."""
    checks = _half_a_rank, _two_starters, _started_alone, _half_an_address
    return [sentence for check in checks if (sentence := check(environment))]


def _half_a_rank(environment: Mapping[str, str]) -> str:
    """Return a message if RANK is set without WORLD_SIZE, or the reverse; empty: no contradiction.

    Another starter may set the same value, which is no contradiction.
    """
    names = ("RANK", "WORLD_SIZE")
    present = [name for name in names if name in environment]
    if len(present) != 1:
        return ""
    by = starter(environment)
    if by is not None and environment[present[0]] == by.rank_and_world(environment)[names.index(present[0])]:
        return ""
    missing = next(name for name in names if name not in present)
    what = f"{present[0]}={environment[present[0]]} is set and {missing} is not"
    return f"{what} (left over from another start? unset {present[0]}, or set both)"


def _two_starters(environment: Mapping[str, str]) -> str:
    """Return a message if each process of mpirun or srun has started its own world of torchrun; empty: none has.

    The ranks of one world would know nothing of the others.
    """
    if not TORCHRUN.is_set(environment):
        return ""
    agents = environment.get("GROUP_WORLD_SIZE", environment.get("CROSS_SIZE", ""))
    restarted = environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # perhaps with fewer agents
    for by, command in ((OPEN_MPI, "mpirun"), (MPI, "mpirun"), (SLURM, "srun")):
        if not by.is_set(environment) or (by is SLURM and not _in_step(environment)) or restarted:
            continue
        rank, tasks = by.rank_and_world(environment)
        if agents.isdecimal() and tasks.isdecimal() and int(tasks) > int(agents):
            what = f"{command} started {tasks} tasks, and torchrun in each a world of {agents} agent(s) of its own"
            return f"{what} (one task a node and torchrun --nnodes, or {command} python -m launcher.worker R)"
        if not agents and tasks != "1" and (rank, tasks) != TORCHRUN.rank_and_world(environment):
            mine = "RANK={} of WORLD_SIZE={}".format(*TORCHRUN.rank_and_world(environment))
            what = f"{mine}, but {by.rank}={rank} of {_first_set(by.world, environment)}={tasks}"
            return f"{what}: two starters that do not know each other (unset RANK and WORLD_SIZE)"
    return ""


def _started_alone(environment: Mapping[str, str]) -> str:
    """Return a message if a single worker was started in a Slurm allocation of several nodes; empty: it was not."""
    nodes = allocated_nodes(environment)
    if nodes < 2 or starter(environment) is not None:
        return ""
    what = f"this allocation has {nodes} nodes and the worker was started alone on one of them"
    return f"{what} (srun python -m launcher.worker R; srun -N 1 -n 1 for one rank)"


def _half_an_address(environment: Mapping[str, str]) -> str:
    """Return a message if only one of MASTER_ADDR and MASTER_PORT is set, or the port is not valid; empty: neither."""
    names = ("MASTER_ADDR", "MASTER_PORT")
    present = [name for name in names if environment.get(name)]
    if starter(environment) is None:
        return ""
    if len(present) == 1:
        missing = next(name for name in names if name not in present)
        what = f"{present[0]}={environment[present[0]]} is set and {missing} is not"
        return f"{what} (both or none: ranks of srun and mpirun need neither)"
    port = environment.get("MASTER_PORT", "")
    if present and not (port.isdecimal() and 0 < int(port) < 65536):
        return f"MASTER_PORT={port} is no port (1 to 65535)"
    return ""


def _in_step(environment: Mapping[str, str]) -> bool:
    """Return whether this process is in a step of srun. A batch script has Slurm's variables too, but is no rank."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < _LAST_STEP


def _counts(tasks_per_node: str) -> Iterator[int]:
    """Yield the tasks of each node from Slurm's notation: 2(x3),1 is 2, 2, 2, 1."""
    for number, times in _COUNTS.findall(tasks_per_node):
        yield from [int(number)] * int(times or 1)


def _first_set(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    return next((name for name in names if environment.get(name)), names[0])
