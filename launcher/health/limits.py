"""Limits of this process that a run reaches: open files, locked memory, processes, and shared memory."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.config.format import human
from launcher.health import disks
from launcher.health.finding import Check, Finding

SHARED_MEMORY = Path("/dev/shm")
_FILES_OF_A_RANK = 256
"""Files that a rank opens: sockets to other ranks, shards, pipes of loader workers."""
_PROCESSES_OF_A_RANK = 128
"""Processes and threads of a rank."""
_CONTAINER = 64 * 2**20
"""Size of /dev/shm in a container without --shm-size."""


@dataclass(frozen=True)
class Limits:
    """Soft limits; None: unlimited. `locked`: bytes."""

    files: int | None
    processes: int | None
    locked: int | None


def of_this_process() -> Limits:
    """Return the soft limits of this process, which the ranks inherit."""
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK)
    soft = [resource.getrlimit(kind)[0] for kind in kinds]
    return Limits(*(None if limit == resource.RLIM_INFINITY else limit for limit in soft))


def has_infiniband() -> bool:
    """Return whether a device of RDMA is here, for whose buffers memory is locked."""
    devices = Path("/sys/class/infiniband")
    return devices.is_dir() and any(devices.iterdir())


def findings(limits: Limits, ranks: int, rdma: bool) -> list[Finding]:
    """Return the findings about the limits. `ranks`: of this node. `rdma`: whether memory is locked for transfers."""
    files, processes = ranks * _FILES_OF_A_RANK, ranks * _PROCESSES_OF_A_RANK
    found = [
        _limit("open files", limits.files, files // 4, files, "ulimit -n"),
        _limit("processes", limits.processes, processes // 4, processes, "ulimit -u"),
    ]
    check = Check("machine", "locked memory")
    size = "unlimited" if limits.locked is None else human(limits.locked)
    if rdma and limits.locked is not None and limits.locked < 2**30:
        cure = "raise it to unlimited (ulimit -l; for Slurm PropagateResourceLimitsExcept=MEMLOCK)"
        return [*found, check.failure(f"{size} may be locked, too little for InfiniBand", cure)]
    needed = "" if rdma else "; nothing here needs it"
    return [*found, check.ok(f"{size} may be locked{needed}")]


def _limit(name: str, limit: int | None, least: int, good: int, command: str) -> Finding:
    check = Check("machine", name)
    if limit is None:
        return check.ok("unlimited")
    cure = f"raise it with {command} {max(65536, good)}, or in /etc/security/limits.conf"
    if limit < least:
        return check.failure(f"at most {limit:,}, and the ranks here need about {good:,}", cure)
    if limit < good:
        return check.warning(f"at most {limit:,}, and the ranks here may need {good:,}", cure)
    return check.ok(f"at most {limit:,}")


def shared_memory_findings(room: disks.Space, problems: Sequence[str]) -> list[Finding]:
    """Return the finding about /dev/shm. `problems`: of the semaphores that the ranks need."""
    check, sizes = Check("machine", "/dev/shm"), f"{human(room.free)} of {human(room.total)} free"
    cure = "mount a larger tmpfs there; for a container: --shm-size=8g, or --ipc=host"
    if problems:
        return [check.failure(f"{problems[0]} ({sizes})", cure)]
    if room.total <= _CONTAINER or room.free < _CONTAINER:
        what = f"{sizes}: too small for loader workers and for copies in memory"
        return [check.warning(what, cure)]
    return [check.ok(sizes)]
