"""The table of `launcher doctor`, and its progress."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.config.errors import one_line
from launcher.config.format import plural
from launcher.health.finding import GROUPS, Finding, Level
from launcher.tools.doctor.machine_checks import Step

_MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("WARN", "yellow"),
    "failure": ("FAIL", "bold red"),
}

_NAME = 16
"""Columns of the names of checks."""


def collected(steps: Iterable[Step], console: Console) -> list[Finding]:
    """Return the findings, and show meanwhile what is looked at: on a terminal in one line, else a line for each."""
    findings, shown = list[Finding](), set[str]()
    with console.status("looking ...") as status:
        for step in steps:
            if isinstance(step, Finding):
                findings.append(step)
            elif console.is_terminal:
                status.update(Text(f"looking at {one_line(step)} ..."))
            elif step not in shown:
                shown.add(step)
                console.print(f"looking at {one_line(step)}", markup=False, highlight=False, soft_wrap=True)
    return findings


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the findings by groups, and at the end how many checks have failed."""
    several = len({finding.host for finding in findings}) > 1
    for group in GROUPS:
        if rows := list(_merged([finding for finding in findings if finding.group == group])):
            console.print(Text(group, "bold"))
            console.print(_table(rows, several))
    console.print(Text(_summary(findings)), highlight=False, soft_wrap=True)


def _table(findings: Sequence[Finding], several: bool) -> Table:
    """Return a table of findings. `several`: whether hosts are named."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, min_width=4)
    table.add_column(min_width=_NAME, max_width=_NAME, overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        host = f"{finding.host}: " if several and not finding.found.startswith(finding.host) else ""
        table.add_row(Text(mark, style), Text(one_line(finding.check)), Text(one_line(f"{host}{finding.found}")))
        if finding.cure:
            table.add_row("", "", Text(f"-> {one_line(finding.cure)}", "italic"))
    return table


def _merged(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings, failures first. What is ok or the same on several nodes becomes one."""
    order: dict[Level, int] = {"failure": 0, "warning": 1, "ok": 2}
    same = dict[tuple[str, str, str], list[Finding]]()
    for finding in sorted(findings, key=lambda one: order[one.level]):
        text = "" if finding.level == "ok" else finding.found
        same.setdefault((finding.level, finding.check, text), []).append(finding)
    for alike in same.values():
        first, hosts = alike[0], {one.host for one in alike}
        if len(hosts) == 1:
            yield from alike
            continue
        others = f" (and {plural(len(hosts) - 1, 'other host')})"
        yield Finding(first.group, first.check, first.level, f"{first.found}{others}", first.cure, first.host)


def _summary(findings: Sequence[Finding]) -> str:
    counts = {level: sum(one.level == level for one in findings) for level in _MARKS}
    hosts = {one.host for one in findings if one.host}
    text = f"{plural(len(findings), 'check')} on {plural(len(hosts), 'host')}: {counts['failure']} failed"
    text += f", {plural(counts['warning'], 'warning')}"
    return f"{text}."
