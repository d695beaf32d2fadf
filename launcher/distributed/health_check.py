"""Health checks of other nodes and of this host's devices, and the choice of the nodes to exclude.

The checks of one host are in launcher.health. Each agent of a start answers at a port for as long as it lives. The
other agents connect to that port by the host's name.
"""

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, cast

from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.signals import SIGNALS
from launcher.health import clocks
from launcher.plan.devices import Requested, decide
from launcher.plan.machine import ThisMachine

ANSWER_SECONDS = 5.0
"""Seconds in which a node has to answer another."""
DEVICE_SECONDS = 40.0
"""Seconds for loading torch from a shared disk and for the first device to compute, with 2 more for each device."""
_MARK = "launcher.health_check: "
"""Prefix of the device check's result, since a site may print other lines when Python starts."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """A node of a start. `index`: its place in `hosts`."""

    index: int
    hosts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.hosts[self.index]


def serve_answers(node: Node, start: str) -> socket.socket:
    """Answer health checks in a thread until the returned socket is closed."""
    listening = listen(node.hosts, node.index)

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                if listening.fileno() < 0:
                    return
                time.sleep(0.1)  # such as too many open files, for which the thread must not end
                continue
            with connection, suppress(OSError):
                connection.settimeout(ANSWER_SECONDS)
                connection.sendall(f"{start} {node.index} {time.time()}\n".encode())

    threading.Thread(target=answer, name="health check", daemon=True).start()
    return listening


def unreachable_peers(node: Node, ports: Mapping[int, int], start: str) -> dict[int, str]:
    """Return the nodes that do not answer, each with the reason.

    All are tried at once, since resolving a name may be slow. `ports`: port of each node's `serve_answers`, by index.
    """
    problems = dict[int, str | None]()

    def check(other: int, port: int) -> None:
        problems[other] = peer_problem(node, other, port, start)

    threads = [threading.Thread(target=check, args=item, daemon=True) for item in ports.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS + 1
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    slow = f"its name does not resolve on {node.name} in {ANSWER_SECONDS:.0f} s"
    return {i: problem for i in ports if (problem := problems.get(i, slow)) is not None}


def peer_problem(node: Node, other: int, port: int, start: str) -> str | None:
    """Return why another node does not answer this one; None: it does."""
    host, sent = node.hosts[other], time.time()
    try:
        answer = _answer(host, port)
    except socket.gaierror as error:
        return f"its name does not resolve on {node.name} ({error.strerror})"
    except OSError as error:
        return f"does not answer {node.name} at {_address(host)}, port {port} ({error})"
    if answer.split(" ")[:2] != [start, str(other)]:
        return f"its name leads elsewhere on {node.name}, to {_address(host)}, where another answers"
    ahead = _clock_ahead(answer, sent)
    if ahead is None:
        return f"answers {node.name} without its time (another version of the launcher is there)"
    if abs(ahead) >= clocks.UNUSABLE:
        return f"{clocks.sentence(ahead, node.name)} ({clocks.CURE})"
    if abs(ahead) >= clocks.NOTICED and node.index == 0:
        _log.warning("%s: %s (%s)", host, clocks.sentence(ahead, node.name), clocks.CURE)
    return None


def clocks_ahead(node: Node, ports: Mapping[int, int]) -> dict[str, float]:
    """Return the seconds by which the clocks of nodes are ahead of this one's, by host; 0 for this host. Nodes that do
    not answer are left out. `ports`: of each node's `serve_answers`, by index."""

    def ahead(other: int) -> float | None:
        sent = time.time()
        with suppress(OSError):
            return _clock_ahead(_answer(node.hosts[other], ports[other]), sent)
        return None

    with ThreadPoolExecutor(max(1, min(64, len(ports)))) as pool:
        found = dict(zip(ports, pool.map(ahead, ports), strict=True))
    return {node.name: 0.0} | {node.hosts[i]: value for i, value in found.items() if value is not None}


def dead_agents(endpoints: Mapping[int, tuple[str, int]]) -> dict[int, bool]:
    """Return for each node whether its agent has ended: nothing answers at its host and port.

    All are tried at once. If a name does not resolve, this says nothing about the agent, and the result is False.
    """

    def is_dead(endpoint: tuple[str, int]) -> bool:
        try:
            return not _answer(*endpoint)
        except socket.gaierror:
            return False
        except OSError:
            return True

    with ThreadPoolExecutor(max(1, min(64, len(endpoints)))) as pool:
        return dict(zip(endpoints, pool.map(is_dead, endpoints.values()), strict=True))


class Reached(NamedTuple):
    """The result of trying the names and addresses of a host.

    `host`: the first one that accepts a connection; empty: none does. `problem`: why none does. `unresolved`: whether a
    name did not resolve.
    """

    host: str
    problem: str = ""
    unresolved: bool = False


def first_reachable(hosts: Iterable[str], port: int, seconds: float = 3.0) -> Reached:
    """Try a host's names and addresses until one accepts a connection."""
    problems, unresolved = [], False
    for host in hosts:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            return Reached(host)
        except socket.gaierror:
            problems.append(f"the name {host} leads nowhere here")
            unresolved = True
        except OSError as error:
            problems.append(f"{host}:{port}: {error.strerror or error}")
    return Reached("", "; ".join(problems), unresolved)


def listen(hosts: Sequence[str], index: int = 0) -> socket.socket:
    """Return a socket that listens on a free port.

    If there is only one host, or if the hosts' names resolve to the loopback, it listens there, else on every
    interface.
    """
    if len(hosts) == 1:
        return socket.create_server((LOOPBACK, 0), backlog=1024)
    addresses = [_address(host) for host in {hosts[index], *hosts[:2]}]
    if all(address is not None and ip_address(address).is_loopback for address in addresses):
        return socket.create_server((_address(hosts[index]), 0), backlog=1024)
    return listen_everywhere()


def listen_everywhere() -> socket.socket:
    """Return a socket that listens on every interface, on a free port."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def nodes_to_exclude(unreached: Mapping[int, Mapping[int, str]], nodes: Iterable[int]) -> dict[int, str]:
    """Return the nodes without which every node reaches every other, as few as possible, each with a reason.

    `unreached`: the nodes that each node did not reach, with the reasons. If only two nodes are concerned, the one that
    was not reached is excluded.
    """
    pairs = {(i, j): reason for i, peers in unreached.items() for j, reason in peers.items()}
    excluded = dict[int, str]()
    while pairs:
        count = {n: sum(n in pair for pair in pairs) for n in nodes}
        worst = max(count, key=lambda n: (count[n], sum(n == j for _, j in pairs), n))
        reasons = [reason for (_, j), reason in pairs.items() if j == worst] or [
            f"reaches none of {len(pairs)} others: {next(iter(pairs.values()))}"
        ]
        excluded[worst] = reasons[0] if len(reasons) == 1 else f"{reasons[0]}, and {len(reasons) - 1} more say so"
        pairs = {pair: reason for pair, reason in pairs.items() if worst not in pair}
    return excluded


def device_problem(device: str, count: int) -> str | None:
    """Return what is wrong with this host's devices; None: `count` of them compute, or the ranks use the CPU.

    The devices are tried in a child process, since a driver may hang.
    """
    if device == "cpu":
        return None
    command, seconds = [sys.executable, "-P", "-c", _TRY_DEVICES, device, str(count), _MARK], DEVICE_SECONDS + 2 * count
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"its {device} devices have not answered in {seconds:.0f} s"
    lines = done.stdout.decode(errors="replace").splitlines()
    problem = next((line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)), None)
    ended_with_this_process = -done.returncode in (*SIGNALS, signal.SIGKILL)  # the stop is reported later
    if problem is None and done.returncode and not ended_with_this_process:
        return f"its {device} devices could not be tried (exit code {done.returncode})"
    return problem if problem != _none(device) else f"{problem}{_reason(device)}"


def _none(device: str) -> str:
    return f"has no {device} device that torch can use"


def _reason(device: str) -> str:
    """Return why torch cannot use the devices that this host has, as the end of a sentence; empty: it has none."""
    reason = decide(cast(Requested, device), ThisMachine()).reason
    return f": {reason.with_advice()}" if reason is not None and reason.advice else ""


_TRY_DEVICES = """
import sys, torch
device, count, mark = sys.argv[1], int(sys.argv[2]), sys.argv[3]
found = torch.accelerator.current_accelerator(check_available=True)
if found is None or found.type != device:
    print(f"{mark}has no {device} device that torch can use")
elif torch.accelerator.device_count() < count:
    print(f"{mark}has {torch.accelerator.device_count()} of the {count} {device} devices that its ranks need")
else:
    for index in range(count):
        try:
            torch.ones(2, device=f"{device}:{index}").sum().item()
        except RuntimeError as error:
            print(f"{mark}its {device}:{index} does not compute: {str(error).strip().splitlines()[0][:200]}")
            break
"""


def _answer(host: str, port: int) -> str:
    """Return the line that is sent at a port; empty: the connection sends none. Raises OSError."""
    with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
        connection.settimeout(ANSWER_SECONDS)
        return connection.makefile(errors="replace").readline().strip()


def _clock_ahead(answer: str, sent: float) -> float | None:
    """Return the seconds by which the clock of an answer is ahead of this one's; None: the answer has no time. `sent`:
    when the answer was asked for."""
    try:
        return clocks.offset(sent, float(answer.split(" ")[2]), time.time())
    except (ValueError, IndexError):
        return None


def _address(host: str) -> str | None:
    """Return the address of a name; None: it does not resolve."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return None
