"""The result of a check: its level, one sentence about what was found, and the cure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failure"]
Group = Literal["software", "devices", "machine", "disks", "network", "ranks", "services"]
GROUPS: tuple[Group, ...] = ("software", "devices", "machine", "disks", "network", "ranks", "services")
"""All groups, in the order in which they are printed."""


@dataclass(frozen=True)
class Finding:
    """What a check has found on a host. `found`: a sentence. `cure`: what to do; empty for ok. `host`: empty: the
    check concerns all hosts, or the only one."""

    group: Group
    check: str
    level: Level
    found: str
    cure: str = ""
    host: str = ""


@dataclass(frozen=True)
class Check:
    """A check by its group and its name, which makes findings."""

    group: Group
    name: str

    def ok(self, found: str) -> Finding:
        return Finding(self.group, self.name, "ok", found)

    def warning(self, found: str, cure: str) -> Finding:
        return Finding(self.group, self.name, "warning", found, cure)

    def failure(self, found: str, cure: str) -> Finding:
        return Finding(self.group, self.name, "failure", found, cure)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the most severe level of some findings; ok if there are none."""
    levels = {finding.level for finding in findings}
    return "failure" if "failure" in levels else "warning" if "warning" in levels else "ok"
