"""From how each node of a start ended to how the start did: the exit code, why, whether it should come back."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from launcher.distributed.signals import STOPPED as STOPPED
from launcher.distributed.signals import Reason

DONE, FAILED, WRONG, UNFIT = 0, 1, 2, 69
"""Exit codes, beside STOPPED. UNFIT: a node was lost, or not fit to begin: nothing is wrong with the recipe."""

Why = Literal["done", "failed", "time", "told", "node", "replaced"]


@dataclass(frozen=True)
class JobOutcome:
    """`again`: it should be started again, without the hosts `excluded`. `text`: what a person reads last."""

    code: int
    why: Why
    again: bool = False
    text: str = ""
    excluded: Sequence[str] = field(default_factory=tuple)


def of(
    hosts: Sequence[str], ends: Mapping[str, Mapping[str, Any]], least: int, before: int, after: int, late: bool
) -> JobOutcome:
    """`ends`: what each host said of its end (see launcher.launch.node); a host that is not among them is lost, which
    counts where fewer than the `least` are there. `before`, `after`: the steps of the newest checkpoints at the
    beginning and now. `late`: the deadline is over."""
    said = [end for end in ends.values() if not end["closed"]]
    gone = [host for host in hosts if host not in ends]
    lost = gone if len(ends) < least else []
    reason = max((Reason(end["reason"]) for end in said), default=Reason.NONE)
    problems: list[str] = next((end["problems"] for end in said if end["problems"]), [])
    if reason is Reason.REPLACED:
        return JobOutcome(FAILED, "replaced", text="\n".join(problems))
    if problems:
        return JobOutcome(WRONG, "failed", text="\n".join(problems))
    failed = sorted((end["failed"] for end in said if end["failed"]), key=lambda f: (f["echo"], f["time"]))
    if failed and not failed[0]["echo"] and not (lost and failed[0]["code"] == -signal.SIGTERM):
        return JobOutcome(FAILED, "failed", text=failed[0]["text"])
    if said and all(end["code"] == DONE for end in said):
        return JobOutcome(DONE, "done")
    if reason is Reason.STOP:
        return JobOutcome(STOPPED, "told")
    if lost or failed:
        again = bool(gone) or after > before  # ranks that never hear each other would not the next time
        return JobOutcome(UNFIT, "node", again=again, text=_lost(lost, failed))
    if late and after <= before:
        what = "it was time to leave before a step was saved: the time limit is too short, or slurm.leave too long"
        return JobOutcome(FAILED, "failed", text=what)
    return JobOutcome(STOPPED, "time", again=True)


def left(reason: Reason) -> JobOutcome:
    """A start that was told to leave while its nodes were still meeting."""
    if reason is Reason.MAKE_WAY:
        return JobOutcome(STOPPED, "time", again=True)
    return JobOutcome(STOPPED, "told")


def unfit(hosts: Sequence[str], why: Mapping[str, str]) -> JobOutcome:
    """A start that too few nodes were fit for. It comes back without them, unless they are half of all: then it is not
    the nodes."""
    text = "\n".join(f"{host} is not fit to begin: {what}" for host, what in why.items())
    few = 2 * len(why) < len(hosts)
    return JobOutcome(UNFIT, "node", again=few, text=text, excluded=tuple(why) if few else ())


def _lost(lost: Sequence[str], failed: Sequence[Mapping[str, Any]]) -> str:
    if lost:
        are = f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'}"
        return f"{are} lost: powered off, cut off, or the launcher there was killed"
    return f"the ranks lost each other: {failed[0]['text']}"
