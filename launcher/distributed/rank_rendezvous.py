"""The rendezvous of ranks that the launcher did not start itself: by torchrun, srun, an MPI or by hand.

If MASTER_ADDR and MASTER_PORT are set, they name the rendezvous. Otherwise rank 0 serves a store and posts its address
in a folder that all ranks see, under a name that all ranks of a start share and no other start has. Messages of a dead
start do no harm: each has a token, and the store at its address must have the same one.

A waiting rank handles signals. As nothing has been trained yet, it leaves, and so do the others.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import psutil
import torch.distributed as dist

from launcher.config import paths
from launcher.config.errors import UserError, first_line
from launcher.distributed import health_check, launch_env, process_group
from launcher.distributed.launch_env import LOOPBACK, RankInfo, UnreachablePeer
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.rendezvous import Message, MessageFolder, pause, serve_store
from launcher.distributed.stop_requests import StoppedBeforeTraining, interruptible

FOLDER = paths.RUNS / ".rendezvous"
_MESSAGE_SECONDS = 120
_CONNECTION_SECONDS = 15
_NAME_SECONDS = 10
"""Seconds to wait for a host's name to resolve."""
_LEAVE_SECONDS = 3.0
_LONGEST_PAUSE = 0.25
_LONG = timedelta(minutes=30)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedRanks:
    """The store that all ranks have joined, and the host of each rank."""

    store: dist.Store
    hosts: list[str]

    def with_local_ranks(self, info: RankInfo) -> RankInfo:
        """Return the rank with its number on its host. If the starter has not set that, it is counted from `hosts`."""
        if info.local_world < info.world or len(set(self.hosts)) == 1:
            return info
        local = [rank for rank, host in enumerate(self.hosts) if host == self.hosts[info.rank]]
        return RankInfo(info.rank, info.world, local.index(info.rank), len(local))


def connect(info: RankInfo, should_stop: Callable[[], bool]) -> ProcessGroup:
    """Join the other ranks and connect the process group. Raises as `join` does."""
    found = join(info, should_stop)
    host = found.hosts[info.rank]
    group = process_group.connect(found.with_local_ranks(info), store=found.store, should_stop=should_stop, host=host)
    interruptible(lambda: process_group.exchange(group), should_stop)
    process_group.first_all_reduce(group, should_stop=should_stop)
    return group


def join(
    info: RankInfo,
    should_stop: Callable[[], bool],
    environment: Mapping[str, str] = os.environ,
    timeout: timedelta = _LONG,
) -> JoinedRanks:
    """Wait until all ranks have joined.

    Raises UserError if the environment names no rendezvous, StoppedBeforeTraining, or UnreachablePeer.
    """
    by_address = bool(environment.get("MASTER_ADDR"))
    if not by_address:  # one command has started all ranks
        timeout = min(timeout, timedelta(seconds=_MESSAGE_SECONDS))
    rank = _Rank(info, should_stop, environment, timeout, launch_env.host_name(environment))
    if by_address:
        return rank.gather(rank.store_at_address())
    key = _key(environment)
    if not key:
        raise UserError(
            f"{rank}: there is no rendezvous for the ranks (set MASTER_ADDR to the host of rank 0, and MASTER_PORT)"
        )
    messages = MessageFolder(FOLDER)
    if info.rank > 0:
        return rank.gather(rank.find_store(messages, key))
    store = rank.post_store(messages, key)
    try:
        return rank.gather(store)
    finally:
        messages.remove(key)


@dataclass(frozen=True)
class _Rank:
    """A rank that joins the others. `timeout`: how long it waits for them."""

    info: RankInfo
    should_stop: Callable[[], bool]
    environment: Mapping[str, str]
    timeout: timedelta
    host: str

    def __str__(self) -> str:
        return f"rank {self.info.rank} on {self.host}"

    def store_at_address(self) -> dist.Store:
        """Return the store at MASTER_ADDR: rank 0 serves it, unless torchrun's agent does."""
        by_agent = self.environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        near = launch_env.one_host(self.info, self.environment)
        host, port = self.environment["MASTER_ADDR"], int(self.environment["MASTER_PORT"])
        if near and not by_agent:
            host = LOOPBACK
        if self.info.rank == 0 and not by_agent:
            return self._serve_at(host, port, near)
        self._wait_for(host, port)
        try:  # what answers may be no store
            store = interruptible(partial(self._connect, host, port, serve=False), self.should_stop)
        except (dist.DistNetworkError, OSError) as error:
            raise UnreachablePeer(f"{self} cannot join the others at {host}:{port}: {first_line(error)}") from error
        attempt = self.environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        return dist.PrefixStore(f"/worker/attempt_{attempt}/of_{self.info.world}", store) if by_agent else store

    def _serve_at(self, host: str, port: int, near: bool) -> dist.Store:
        """Serve a store at the port that the user chose. Raises UserError if the port is taken."""
        try:
            if near:
                return serve_store(socket.create_server((LOOPBACK, port), backlog=1024), LOOPBACK, self.timeout)[0]
            return interruptible(partial(self._connect, host, port, serve=True), self.should_stop)
        except (dist.DistNetworkError, OSError) as error:
            what = f"{self} cannot serve MASTER_PORT={port}: {first_line(error)}"
            raise UserError(f"{what} (is it taken by another run? choose another)") from None

    def _connect(self, host: str, port: int, serve: bool) -> dist.Store:
        return dist.TCPStore(
            host, port, is_master=serve, wait_for_workers=False, timeout=self.timeout, multi_tenant=True
        )

    def _wait_for(self, host: str, port: int) -> None:
        """Wait until the address that the user gave accepts a connection.

        If the name does not resolve, the wait ends after some seconds. Raises UnreachablePeer and
        StoppedBeforeTraining.
        """
        begin, most = time.monotonic(), self.timeout.total_seconds()
        while True:
            reached = health_check.first_reachable([host], port)
            if reached.host:
                return
            if time.monotonic() - begin > (min(most, _NAME_SECONDS) if reached.unresolved else most):
                raise UnreachablePeer(f"{self} cannot reach rank 0 at MASTER_ADDR={host}: {reached.problem}")
            pause(0.1, self.should_stop)

    def post_store(self, messages: MessageFolder, key: str) -> dist.Store:
        """Serve a store as rank 0, then post its address. Raises UserError if the folder cannot be written."""
        alone = launch_env.one_host(self.info, self.environment)
        nearest = [LOOPBACK] if self.info.world == self.info.local_world else []
        hosts = [LOOPBACK] if alone else [*nearest, self.host, *_addresses()]
        listening = health_check.listen(hosts) if alone else health_check.listen_everywhere()
        store, port = serve_store(listening, LOOPBACK, _LONG)
        token = secrets.token_hex(8)
        store.set("token", token)
        try:
            messages.post(key, {"hosts": hosts, "port": port, "token": token})
        except OSError as error:
            raise UserError(f"{messages.path.absolute()}: cannot be written ({error.strerror})") from None
        _log.debug("rank 0 serves the store of all ranks at %s, port %d", " or ".join(hosts), port)
        return store

    def find_store(self, messages: MessageFolder, key: str) -> dist.Store:
        """Return the store that rank 0 serves.

        The first message may come from a dead start. Then nothing answers at its address, or another process does, and
        the message is read again.
        """
        end, first_tried = time.monotonic() + _MESSAGE_SECONDS, dict[str, float]()
        while time.monotonic() < end:
            if message := messages.read([key]).get(key):
                reached = health_check.first_reachable(message["hosts"], message["port"])
                verify = partial(_verified_store, reached.host, message)
                if reached.host and (store := interruptible(verify, self.should_stop)):
                    return store
                since = first_tried.setdefault(message["token"], time.monotonic())
                if time.monotonic() - since > _CONNECTION_SECONDS:
                    raise UnreachablePeer(
                        f"{self} cannot reach rank 0 at {' or '.join(message['hosts'])}: {reached.problem}"
                    )
            pause(0.05, self.should_stop)
        where = messages.path.absolute()
        what = f"{self} has waited {_MESSAGE_SECONDS} s for rank 0 to post the address of the rendezvous in {where}"
        if messages.trouble:
            raise UnreachablePeer(f"{what}: {messages.trouble}")
        raise UnreachablePeer(f"{what} (do all nodes share this folder? else set MASTER_ADDR and MASTER_PORT)")

    def gather(self, store: dist.Store) -> JoinedRanks:
        """Join the store and wait for the others. If this rank has to stop, it reports that in the store."""
        return interruptible(lambda: self._gather(store), self.should_stop, _LEAVE_SECONDS)

    def _gather(self, store: dist.Store) -> JoinedRanks:
        names = [f"host/{rank}" for rank in range(self.info.world)]
        begin, wait = time.monotonic(), 0.01
        try:
            store.set(names[self.info.rank], self.host)
            joined = store.add("come", 1)
            while joined < self.info.world:
                if self.should_stop():
                    store.set("leave", self.host)
                if store.check(["leave"]):
                    time.sleep(2 * _LONGEST_PAUSE if self.info.rank == 0 else 0)  # the store ends with rank 0
                    raise StoppedBeforeTraining
                if time.monotonic() - begin > self.timeout.total_seconds():
                    missing = ", ".join(str(rank) for rank, name in enumerate(names) if not store.check([name]))
                    raise UnreachablePeer(
                        f"{self} has waited {self.timeout.total_seconds():.0f} s for rank(s) {missing}"
                    )
                time.sleep(wait)
                wait = min(_LONGEST_PAUSE, wait * 1.5)
                joined = store.add("come", 0)
            return JoinedRanks(store, [name.decode() for name in store.multi_get(names)])
        except dist.DistError as error:
            if self.should_stop():
                raise StoppedBeforeTraining from None
            raise UnreachablePeer(f"{self} lost rank 0 before all had joined: {first_line(error)}") from error


def _verified_store(host: str, message: Message) -> dist.Store | None:
    """Return the store at an address; None: it does not have the token of the message."""
    with suppress(dist.DistError):
        store = dist.TCPStore(host, message["port"], is_master=False, wait_for_workers=False, timeout=_LONG)
        if store.check(["token"]) and store.get("token") == message["token"].encode():
            return store
    return None


def _addresses() -> list[str]:
    """Return this host's addresses, since its name may resolve to another one."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [address for name, addresses in psutil.net_if_addrs().items() if name in up for address in addresses]
    return [one.address for one in found if one.family == socket.AF_INET and not one.address.startswith("127.")]


def _key(environment: Mapping[str, str]) -> str:
    """Return a name that all ranks of a start share and no other start has; empty: the environment has none."""
    by = launch_env.starter(environment)
    if by is launch_env.SLURM:
        names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return "-".join(["slurm", *(environment.get(name, "0") for name in names)])
    if by is launch_env.OPEN_MPI:
        job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid", "")
        once = environment.get("OMPI_MCA_orte_precondition_transports", "")
        return _file_name(f"openmpi-{job}-{once}") if job else ""
    if by is launch_env.MPI and environment.get("PMI_FD", "").isdecimal():
        return _file_name(f"mpi-{_pmi_name(int(environment['PMI_FD']))}")
    return ""


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.@" else "_" for c in text)


def _pmi_name(number: int) -> str:
    """Ask the process manager for the name of the key-value space of an MPI's processes (PMI 1, section 5 of Balaji et
    al., PMI: A Scalable Parallel Process-Management Interface). `number`: descriptor of an open socket to it."""
    with socket.socket(fileno=os.dup(number)) as manager, manager.makefile("rw", encoding="ascii") as lines:
        replies = []
        for command in ("init pmi_version=1 pmi_subversion=1", "get_my_kvsname", "finalize"):
            lines.write(f"cmd={command}\n")
            lines.flush()
            replies.append(lines.readline())
    return replies[1].partition("kvsname=")[2].strip()
