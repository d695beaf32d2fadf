"""Clocks of nodes against each other, from the times that they send in their answers."""

from collections.abc import Mapping
from statistics import median

from launcher.health.finding import Check, Finding

NOTICED, WRONG = 1.0, 5.0
"""Seconds between two clocks from which doctor warns, and from which it fails."""
UNUSABLE = 60.0
"""Seconds from which a node takes no part in a job. The rendezvous of torch, which compares the clocks of nodes, counts
a node that is 30 s behind as dead (see launcher.launch.RendezvousSpec)."""
CURE = "start chronyd or ntpd there (timedatectl set-ntp true)"
_CHECK = Check("network", "clocks")


def offset(sent: float, theirs: float, received: float) -> float:
    """Return the seconds by which another clock is ahead. `sent`, `received`: the own times around the other's answer
    with `theirs`. The error is at most half of the time that the answer took (as in NTP)."""
    return theirs - (sent + received) / 2


def sentence(ahead: float, of: str) -> str:
    """Return a sentence about a clock. `of`: whose clock it is compared with."""
    return f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} that of {of}"


def findings(ahead: Mapping[str, float]) -> list[Finding]:
    """Return a finding for each host whose clock differs from the others', or one for all.

    `ahead`: seconds by which the clock of each host is ahead of one of them. The reference is their median; of two
    hosts the first one, since either may be wrong.
    """
    hosts = list(ahead)
    middle = ahead[hosts[0]] if len(hosts) < 3 else median(ahead.values())
    whose = hosts[0] if len(hosts) < 3 else "most nodes"
    apart = {host: value - middle for host, value in ahead.items()}
    found = []
    for host, seconds in apart.items():
        if abs(seconds) >= NOTICED:
            make = _CHECK.failure if abs(seconds) >= WRONG else _CHECK.warning
            found.append(make(f"{host}: {sentence(seconds, whose)}", CURE))
    most = max(map(abs, apart.values()))
    return found or [_CHECK.ok(f"the clocks of {len(hosts)} nodes agree to {max(most, 0.001) * 1000:.0f} ms")]
