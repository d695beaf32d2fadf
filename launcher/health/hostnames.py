"""The name of this machine: it has to lead to an address of this machine that the other nodes can reach.

Gloo announces the address to which the host's name resolves on the host itself, unless an interface is set (torch,
`ProcessGroupGloo::createDefaultDevice`). With 127.0.1.1, as Debian writes it into /etc/hosts, each rank on another node
connects to itself.
"""

import os
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address

import psutil

from launcher.config import env_vars
from launcher.config.format import some
from launcher.health.finding import Check, Finding

_CHECK = Check("network", "host name")
_INTERFACES = Check("network", "interfaces")
_CURE = "give it its address on the network in /etc/hosts or DNS, or set interface in the profile"


def resolved(name: str) -> list[str]:
    """Return the addresses of a name, as they are resolved here; empty: it does not resolve."""
    with suppress(OSError, UnicodeError):
        return list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(name, None)))
    return []


def own_addresses() -> list[str]:
    """Return the addresses of all interfaces of this machine."""
    families = (socket.AF_INET, socket.AF_INET6)
    each = (one for of_interface in psutil.net_if_addrs().values() for one in of_interface)
    return [one.address.partition("%")[0] for one in each if one.family in families]


def is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback


def _is_own(address: str, own: Collection[str]) -> bool:
    return is_loopback(address) or address.partition("%")[0] in own


def problem(name: str, addresses: Sequence[str], own: Collection[str], others: Sequence[str]) -> str | None:
    """Return why other nodes cannot reach this one by the address of its name; None: they can.

    `addresses`: of its name; `own`: of its interfaces; `others`: those to which the names of other nodes resolve here.
    If all are on the loopback, the nodes are one machine.
    """
    if not addresses:
        return f"its own name {name} does not resolve on it"
    if elsewhere := [address for address in addresses if not _is_own(address, own)]:
        if len(elsewhere) == len(addresses):
            return f"its own name {name} resolves to {some(elsewhere)} on it, which is another machine's address"
        return None
    if all(map(is_loopback, addresses)) and not all(map(is_loopback, others)):
        return f"its own name {name} resolves to {some(list(addresses))} on it, where no other node reaches it"
    return None


def start_problem(hosts: Sequence[str], index: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return why ranks of other nodes cannot reach those of this one; None: they can, or an interface is set.

    Only the loopback is a reason here: an address that is not one of this machine may be translated on the way.
    """
    others = [hosts[i] for i in {0, 1} & set(range(len(hosts))) - {index}]
    if environment.get(env_vars.GLOO_INTERFACE) or not others:
        return None
    name = socket.gethostname()
    addresses = resolved(name)
    if not addresses or not all(map(is_loopback, addresses)):
        return None
    found = [address for host in others for address in resolved(host)]
    if not found:
        return None  # that a node does not answer is found by the others
    reason = problem(name, addresses, own_addresses(), found)
    return reason and f"{reason} ({_CURE})"


def findings(
    name: str, addresses: Sequence[str], own: Collection[str], others: Sequence[str], several: bool, interface: str
) -> list[Finding]:
    """Return the finding about the name of this machine. `several`: whether the profile has several nodes."""
    reason = problem(name, addresses, own, others if several else [])
    if reason is None:
        return [_CHECK.ok(f"{name} resolves to {some(list(addresses))}, an address of this machine")]
    if interface != "auto":
        return [_CHECK.warning(f"{reason}; the ranks use {interface} instead", _CURE)]
    if not several:
        return [_CHECK.warning(f"{reason}; the ranks of one machine do not need it", _CURE)]
    return [_CHECK.failure(reason, _CURE)]


def peer_findings(name: str, addresses: Sequence[str], own: Collection[str], of_self: Collection[str]) -> list[Finding]:
    """Return a finding if the name of another node does not lead to it; none if it may. `addresses`: of that name;
    `own`: of the interfaces here; `of_self`: of the own name. On the loopback, nodes may be one machine."""
    check = Check("network", "names of others")
    if not addresses:
        return [check.failure(f"{name}, another node, does not resolve here", _CURE)]
    here = [address for address in addresses if address in own and not is_loopback(address)]
    if here or (set(addresses) & set(of_self)):
        what = f"{name}, another node, resolves to {some(here or list(addresses))} here, which is this machine"
        return [check.failure(what, _CURE)]
    return []


def interface_findings(interface: str, up: Mapping[str, Sequence[str]], several: bool) -> list[Finding]:
    """Return the finding about the network interfaces. `up`: addresses of each interface that is up."""
    outside = {name: found for name, found in up.items() if any(not is_loopback(address) for address in found)}
    shown = some([f"{name} ({', '.join(found)})" for name, found in up.items()], 4) or "none"
    if interface != "auto" and interface not in up:
        cure = f"set interface in the profile to one of: {some(list(up), 8)}"
        return [_INTERFACES.failure(f"{interface}, the profile's interface, is not here, or is down", cure)]
    if not any(is_loopback(address) for found in up.values() for address in found):
        return [_INTERFACES.failure(f"the loopback is down; up: {shown}", "ip link set lo up")]
    if several and interface == "auto" and len(outside) > 1:
        what = f"{len(outside)} interfaces are up, and the libraries choose one: {shown}"
        return [_INTERFACES.warning(what, "set interface in the profile, so that all nodes use the fast network")]
    if several and not outside:
        return [_INTERFACES.failure("only the loopback is up", "bring up the network interface")]
    return [_INTERFACES.ok(f"up: {shown}")]


def interfaces_up() -> dict[str, list[str]]:
    """Return the IPv4 addresses of each interface that is up; those of IPv6 if it has no others."""
    state, found = psutil.net_if_stats(), dict[str, list[str]]()
    for name, each in psutil.net_if_addrs().items():
        if name in state and state[name].isup:
            v4 = [one.address for one in each if one.family == socket.AF_INET]
            v6 = [one.address.partition("%")[0] for one in each if one.family == socket.AF_INET6]
            if v4 or v6:
                found[name] = v4 or v6
    return found
