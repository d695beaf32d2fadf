"""The port of the rendezvous: fixed by MASTER_PORT, else chosen by the system."""

import errno
import os
import socket
from collections.abc import Mapping

import psutil

from launcher.health.finding import Check, Finding

VARIABLE = "MASTER_PORT"
_CHECK = Check("network", "port")


def bind_error(port: int) -> OSError | None:
    """Return why a port cannot be listened at on every interface; None: it can. Port 0: any free one."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            probe.listen(1)
    except (OSError, OverflowError) as error:
        return error if isinstance(error, OSError) else OSError(errno.EINVAL, "no port has this number")
    return None


def holder(port: int) -> str:
    """Return the process that listens at a port, such as 'process 12 (python)'; if it is another user's, 'another
    process'."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f"process {one.pid} ({psutil.Process(one.pid).name()})"
    except psutil.Error:
        pass
    return "another process"


def requested(profile: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> str:
    """Return the value of MASTER_PORT for the ranks; empty: not set. `profile`: variables of the cluster profile."""
    return str(profile.get(VARIABLE, environment.get(VARIABLE, "")))


def findings(value: str, error: OSError | None, used_by: str) -> list[Finding]:
    """Return the finding about a port. `value`: of MASTER_PORT; empty: not set. `used_by`: who listens there."""
    if not value:
        if error is None:
            return [_CHECK.ok("the system chooses a free port for each start")]
        return [_CHECK.failure(f"no port can be opened: {error.strerror}", "look at the firewall of this machine")]
    if error is None:
        return [_CHECK.ok(f"port {value} of {VARIABLE} is free")]
    cure = f"unset {VARIABLE}, or set it to another port"
    if error.errno == errno.EADDRINUSE:
        return [_CHECK.failure(f"port {value} of {VARIABLE} is taken by {used_by}", cure)]
    return [_CHECK.failure(f"port {value} of {VARIABLE} cannot be opened: {error.strerror}", cure)]


def probed(value: str) -> list[Finding]:
    """Try the port, and return the finding."""
    if value and not value.isdigit():
        return [_CHECK.failure(f"{VARIABLE}={value[:40]} is no number", f"unset {VARIABLE}")]
    port = int(value or 0)
    error = bind_error(port)
    return findings(value, error, holder(port) if error is not None and port else "")
