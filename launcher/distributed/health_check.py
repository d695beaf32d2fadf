"""Doors: each node of a start answers at one for as long as its agent lives, and the others knock there by its name."""

import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from launcher.distributed.launch_env import LOOPBACK

KNOCK = 5.0
"""Seconds in which a node has to answer another."""


@dataclass(frozen=True)
class Node:
    """One of a start's nodes: its place among the `hosts`."""

    index: int
    hosts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.hosts[self.index]


def listening(hosts: tuple[str, ...], index: int, start: str) -> socket.socket:
    """A socket at which a thread answers who knocks, for as long as it is open."""
    door = bound(hosts, index)

    def answer() -> None:
        while True:
            try:
                guest, _ = door.accept()
            except OSError:
                if door.fileno() < 0:
                    return
                time.sleep(0.1)  # too many open files, say: it has to be there as long as the agent is
                continue
            with guest, suppress(OSError):
                guest.settimeout(KNOCK)
                guest.sendall(f"{start} {index}\n".encode())

    threading.Thread(target=answer, name="door", daemon=True).start()
    return door


def knock(node: Node, ports: Mapping[int, int], start: str) -> dict[int, str]:
    """The nodes that do not answer, and why, all tried at once: a name may take its time to resolve."""
    found = dict[int, str | None]()

    def one(other: int, port: int) -> None:
        found[other] = missed(node, other, port, start)

    threads = [threading.Thread(target=one, args=item, daemon=True) for item in ports.items()]
    for thread in threads:
        thread.start()
    until = time.monotonic() + KNOCK + 1
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    slow = f"its name does not resolve on {node.name} in {KNOCK:.0f} s"
    return {i: what for i in ports if (what := found.get(i, slow)) is not None}


def missed(node: Node, other: int, port: int, start: str) -> str | None:
    """Why a node does not answer this one; None: it does."""
    host = node.hosts[other]
    try:
        said = _said(host, port)
    except socket.gaierror as error:
        return f"its name does not resolve on {node.name} ({error.strerror})"
    except OSError as error:
        return f"does not answer {node.name} at {address(host)}, port {port} ({error})"
    if said != f"{start} {other}":
        return f"its name leads elsewhere on {node.name}, to {address(host)}, where another answers"
    return None


def _said(host: str, port: int) -> str:
    """What is answered at a door; nothing where nobody is behind it. Raises OSError."""
    with socket.create_connection((host, port), timeout=KNOCK) as door:
        door.settimeout(KNOCK)
        return door.makefile(errors="replace").readline().strip()


def gone(doors: Mapping[int, tuple[str, int]]) -> dict[int, bool]:
    """Behind which of these doors (host, port) nobody is any more, all tried at once. A name that does not resolve says
    nothing about who lives there."""

    def shut(where: tuple[str, int]) -> bool:
        try:
            return not _said(*where)
        except socket.gaierror:
            return False
        except OSError:
            return True

    with ThreadPoolExecutor(max(1, min(64, len(doors)))) as pool:
        return dict(zip(doors, pool.map(shut, doors.values()), strict=True))


def bound(hosts: tuple[str, ...], index: int) -> socket.socket:
    """A socket that listens: on the loopback where one host is alone, or where that is where the hosts are; else on
    every interface."""
    if len(hosts) == 1:
        return socket.create_server((LOOPBACK, 0), backlog=1024)
    addresses = [address(host) for host in {hosts[index], *hosts[:2]}]
    if all(a is not None and ip_address(a).is_loopback for a in addresses):
        return socket.create_server((address(hosts[index]), 0), backlog=1024)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def address(host: str) -> str | None:
    """Of a name, where it resolves."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None
