"""How the ranks of a start meet that the launcher did not make: by torchrun, srun, an MPI or hand.

Where MASTER_ADDR and MASTER_PORT are given, they meet there. Else rank 0 binds a port and then tells it, in a file of
the current folder that all ranks see; its name is the same for all ranks of a start and for no other. What is left of
a start that died is no danger: the file names a token that the one who answers must know.

A rank waits so that a signal is heeded: nothing has been trained, so it just leaves, and the others with it.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from launcher.config.atomic_files import write
from launcher.config.errors import UserError, first_line
from launcher.distributed import launch_env as places
from launcher.distributed.interruptible_wait import StoppedBeforeTraining as StoppedBeforeTraining
from launcher.distributed.interruptible_wait import patiently
from launcher.distributed.launch_env import LOOPBACK, Place, UnreachablePeer
from launcher.plan.plan import RUNS

FOLDER = RUNS / ".meeting"
_SECONDS_FOR_A_FILE = 120
_SECONDS_FOR_A_CONNECTION = 15
_SECONDS_FOR_A_NAME = 10
_LONGEST_PAUSE = 0.25
_SECONDS_TO_LEAVE = 3.0
_LONG = timedelta(minutes=30)


@dataclass(frozen=True)
class RendezvousResult:
    """All ranks have come to the store; `hosts`: where each runs."""

    store: dist.Store
    hosts: list[str]

    def among(self, at: Place) -> Place:
        """The place with what a starter has not told: which ranks share a host."""
        if at.local_world < at.world or len(set(self.hosts)) == 1:
            return at
        mine = [rank for rank, host in enumerate(self.hosts) if host == self.hosts[at.rank]]
        return Place(at.rank, at.world, mine.index(at.rank), len(mine))


def meet(
    at: Place,
    told: Callable[[], bool],
    environment: Mapping[str, str] = os.environ,
    timeout: timedelta = _LONG,
) -> RendezvousResult:
    """Wait until all ranks are there. `told`: whether to leave. Raises UserError where it is not said where they could
    meet, StoppedBeforeTraining, or UnreachablePeer in a sentence."""
    name = host(environment)
    who = f"rank {at.rank} on {name}"
    if environment.get("MASTER_ADDR"):
        store = _given(at, environment, told, timeout, who)
        return _gather(store, at, name, told, timeout, who)
    timeout = min(timeout, timedelta(seconds=_SECONDS_FOR_A_FILE))  # one command has started them all
    key = _key(environment)
    if not key:
        raise UserError(f"{who}: where do the ranks meet? (set MASTER_ADDR to the host of rank 0, and MASTER_PORT)")
    if at.rank > 0:
        store = _find(FOLDER / key, told, who)
        return _gather(store, at, name, told, timeout, who)
    nearest = [LOOPBACK] if at.world == at.local_world else []
    hosts = [LOOPBACK] if places.one_host(at, environment) else [*nearest, name, *_addresses()]
    store = _publish(FOLDER / key, hosts)
    try:
        return _gather(store, at, name, told, timeout, who)
    finally:
        _clear(FOLDER / key)


def host(environment: Mapping[str, str] = os.environ) -> str:
    """The name by which other nodes know this one. HOSTNAME may be that of the node that the job began on."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def _addresses() -> list[str]:
    """This host's addresses, for where its name does not lead to it."""
    up = {name for name, found in psutil.net_if_stats().items() if found.isup}
    every = [a.address for name, found in psutil.net_if_addrs().items() if name in up for a in found
             if a.family == socket.AF_INET]  # fmt: skip
    return [address for address in every if not address.startswith("127.")]


def _key(environment: Mapping[str, str]) -> str:
    """What is the same for all ranks of a start, and for no other; empty where there is no such thing."""
    by = places.starter(environment)
    if by is places.SLURM:
        names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return "-".join(["slurm", *(environment.get(name, "0") for name in names)])
    if by is places.OPEN_MPI:
        job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid", "")
        once = environment.get("OMPI_MCA_orte_precondition_transports", "")
        return _plain(f"openmpi-{job}-{once}") if job else ""
    if by is places.MPI and environment.get("PMI_FD", "").isdecimal():
        return _plain(f"mpi-{_pmi_name(int(environment['PMI_FD']))}")
    return ""


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.@" else "_" for c in name)


def _pmi_name(number: int) -> str:
    """The name of the space in which an MPI's processes would meet, asked of the process manager (PMI 1, section 5 of
    Balaji et al., PMI: A Scalable Parallel Process-Management Interface). `number`: of an open socket to it."""
    with socket.socket(fileno=os.dup(number)) as manager, manager.makefile("rw", encoding="ascii") as lines:
        replies = []
        for command in ("init pmi_version=1 pmi_subversion=1", "get_my_kvsname", "finalize"):
            lines.write(f"cmd={command}\n")
            lines.flush()
            replies.append(lines.readline())
    return replies[1].partition("kvsname=")[2].strip()


def _given(
    at: Place, environment: Mapping[str, str], told: Callable[[], bool], timeout: timedelta, who: str
) -> dist.Store:
    """The store at MASTER_ADDR: rank 0 serves it, unless torchrun's agent does."""
    near = places.one_host(at, environment)
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    agent = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = at.rank == 0 and not agent
    if near and not agent:
        host = LOOPBACK
    if not serves:
        _wait_for(host, port, told, timeout.total_seconds(), who)
    try:
        if serves and near:
            return _serve_here(port, timeout)
        connect = partial(dist.TCPStore, is_master=serves, wait_for_workers=False, timeout=timeout, multi_tenant=True)
        store: dist.Store = patiently(lambda: connect(host, port), told)  # whoever answers may be no store
    except (dist.DistNetworkError, OSError) as error:
        if not serves:
            raise UnreachablePeer(f"{who} cannot meet the others at {host}:{port}: {first_line(error)}") from error
        what = f"{who} cannot serve MASTER_PORT={port}: {first_line(error)}"
        raise UserError(f"{what} (is it taken by another run? choose another)") from None
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"/worker/attempt_{attempt}/of_{at.world}", store) if agent else store


def _serve_here(port: int, timeout: timedelta) -> dist.TCPStore:
    """Serve a store to the ranks of this host alone. `port`: 0 for any that is free."""
    listening = socket.create_server((LOOPBACK, port), backlog=1024)
    port = listening.getsockname()[1]
    options = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listening.detach()}
    return dist.TCPStore(LOOPBACK, port, timeout=timeout, use_libuv=True, **options)


def _publish(file: Path, hosts: list[str]) -> dist.Store:
    """Serve a store, then tell where. Its port is bound before anyone hears of it."""
    if hosts == [LOOPBACK]:
        store = _serve_here(0, _LONG)
    else:
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=_LONG)
    token = secrets.token_hex(8)
    store.set("token", token)
    for last in (False, False, True):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, json.dumps({"hosts": hosts, "port": store.port, "token": token}))
            break
        except FileNotFoundError:  # another start cleared the folder in between
            if last:
                raise
        except OSError as error:
            raise UserError(f"{file.parent.absolute()}: cannot be written ({error.strerror})") from None
    return store


def _clear(file: Path) -> None:
    """Leave nothing: neither the file, nor the folders where they hold nothing else."""
    with suppress(OSError):
        file.unlink()
        file.parent.rmdir()
        file.parent.parent.rmdir()


def _find(file: Path, told: Callable[[], bool], who: str) -> dist.Store:
    """The store that rank 0 tells of. What a start that died has left there may be read first: then nobody answers, or
    somebody else does."""
    end, tried = time.monotonic() + _SECONDS_FOR_A_FILE, dict[str, float]()
    while time.monotonic() < end:
        if said := _read(file):
            host, why = _answers(said["hosts"], said["port"])
            if host and (store := patiently(partial(_enter, host, said), told)):
                return store
            if time.monotonic() - tried.setdefault(said["token"], time.monotonic()) > _SECONDS_FOR_A_CONNECTION:
                raise UnreachablePeer(f"{who} cannot reach rank 0 at {' or '.join(said['hosts'])}: {why}")
        _pause(0.05, told)
    what = (
        f"{who} has waited {_SECONDS_FOR_A_FILE} s for rank 0 to say in {file.parent.absolute()} where the ranks meet"
    )
    raise UnreachablePeer(f"{what} (do all nodes share this folder? else set MASTER_ADDR and MASTER_PORT)")


def _read(file: Path) -> dict[str, Any] | None:
    """What rank 0 has said by now. The folder is listed first, since NFS remembers for a while what was not there."""
    with suppress(FileNotFoundError):
        if file in list(file.parent.iterdir()):
            said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return said
    return None


def _enter(host: str, said: dict[str, Any]) -> dist.Store | None:
    """The store at an address, if it is the one that was told of."""
    with suppress(dist.DistError):
        store = dist.TCPStore(host, said["port"], is_master=False, wait_for_workers=False, timeout=_LONG)
        if store.check(["token"]) and store.get("token") == said["token"].encode():
            return store
    return None


def _answers(hosts: list[str], port: int) -> tuple[str, str]:
    """The first of a host's names and addresses that answers, or why none does."""
    why = []
    for host in hosts:
        try:
            socket.create_connection((host, port), timeout=3).close()
            return host, ""
        except socket.gaierror:
            why.append(f"the name {host} leads nowhere here")
        except OSError as error:
            why.append(f"{host}:{port}: {error.strerror or error}")
    return "", "; ".join(why)


def _wait_for(host: str, port: int, told: Callable[[], bool], seconds: float, who: str) -> None:
    """Wait for an address that the user gave. For a name that leads nowhere only some seconds."""
    begin = time.monotonic()
    while not (found := _answers([host], port))[0]:
        if time.monotonic() - begin > (min(seconds, _SECONDS_FOR_A_NAME) if "nowhere" in found[1] else seconds):
            raise UnreachablePeer(f"{who} cannot reach rank 0 at MASTER_ADDR={host}: {found[1]}")
        _pause(0.1, told)


def _gather(
    store: dist.Store, at: Place, host: str, told: Callable[[], bool], timeout: timedelta, who: str
) -> RendezvousResult:
    """Come to the store and wait for the others. Who is told to leave tells the others, unless the store is silent."""
    return patiently(lambda: _come(store, at, host, told, timeout, who), told, _SECONDS_TO_LEAVE)


def _come(
    store: dist.Store, at: Place, host: str, told: Callable[[], bool], timeout: timedelta, who: str
) -> RendezvousResult:
    names = [f"host/{rank}" for rank in range(at.world)]
    end, wait = time.monotonic() + timeout.total_seconds(), 0.01
    try:
        store.set(names[at.rank], host)
        come = store.add("come", 1)
        while come < at.world:
            if told():
                store.set("leave", host)
            if store.check(["leave"]):
                time.sleep(2 * _LONGEST_PAUSE if at.rank == 0 else 0)  # with rank 0 the store goes
                raise StoppedBeforeTraining
            if time.monotonic() > end:
                missing = ", ".join(str(rank) for rank, name in enumerate(names) if not store.check([name]))
                raise UnreachablePeer(f"{who} has waited {timeout.total_seconds():.0f} s for rank(s) {missing}")
            time.sleep(wait)
            wait = min(_LONGEST_PAUSE, wait * 1.5)
            come = store.add("come", 0)
        return RendezvousResult(store, [name.decode() for name in store.multi_get(names)])
    except dist.DistError as error:
        if told():
            raise StoppedBeforeTraining from None
        raise UnreachablePeer(f"{who} lost rank 0 before all had met: {first_line(error)}") from error


def _pause(seconds: float, told: Callable[[], bool]) -> None:
    if told():
        raise StoppedBeforeTraining
    time.sleep(seconds)
