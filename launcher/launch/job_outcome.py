"""The outcome of a start, from how its nodes ended: the exit code, the reason, and whether to start again."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from launcher.distributed.exit_codes import DONE, FAILED, INVALID_INPUT, NODE_FAILURE, STOPPED
from launcher.distributed.node_rendezvous import NodeFailure, NodeOutcome
from launcher.distributed.signals import StopReason

Why = Literal["done", "failed", "time", "told", "node", "replaced"]


@dataclass(frozen=True)
class JobOutcome:
    """Outcome of a start. `restart`: whether to start again, without the hosts `excluded`. `text`: last message for the
    user."""

    code: int
    why: Why
    restart: bool = False
    text: str = ""
    excluded: Sequence[str] = field(default_factory=tuple)


def of(
    hosts: Sequence[str],
    outcomes: Mapping[str, NodeOutcome],
    least: int,
    before: int,
    after: int,
    past_deadline: bool,
    advice: str = "",
) -> JobOutcome:
    """Return the outcome of a start.

    `outcomes`: by host; a missing host is lost, which matters if fewer than `least` remain. `before`, `after`: steps of
    the newest checkpoint at the start and now. `advice`: text for a job whose deadline passed before it had saved a
    step.
    """
    needed = [outcome for outcome in outcomes.values() if not outcome["closed"]]
    missing = [host for host in hosts if host not in outcomes]
    lost = missing if len(outcomes) < least else []
    reason = max((StopReason(outcome["reason"]) for outcome in needed), default=StopReason.NONE)
    problems: list[str] = next((outcome["problems"] for outcome in needed if outcome["problems"]), [])
    if reason is StopReason.REPLACED:
        return JobOutcome(FAILED, "replaced", text="\n".join(problems))
    if problems:
        return JobOutcome(INVALID_INPUT, "failed", text="\n".join(problems))
    failures = [outcome["failed"] for outcome in needed if outcome["failed"]]
    failed = sorted(failures, key=lambda failure: (failure["echo"], failure["time"]))
    if failed and not failed[0]["echo"] and not (lost and failed[0]["code"] == -signal.SIGTERM):
        return JobOutcome(FAILED, "failed", text=failed[0]["text"])
    if needed and all(outcome["code"] == DONE for outcome in needed):
        return JobOutcome(DONE, "done")
    if reason is StopReason.STOP:
        return JobOutcome(STOPPED, "told")
    if lost or failed:
        restart = bool(missing) or after > before  # ranks that could not connect would fail again
        return JobOutcome(NODE_FAILURE, "node", restart=restart, text=_describe_loss(lost, failed))
    if past_deadline and after <= before:
        what = "it was time to leave before a step was saved"
        return JobOutcome(FAILED, "failed", text=": ".join(filter(None, (what, advice))))
    return JobOutcome(STOPPED, "time", restart=True)


def stopped_early(reason: StopReason) -> JobOutcome:
    """Return the outcome of a start that was asked to stop before all nodes had joined."""
    if reason is StopReason.MAKE_WAY:
        return JobOutcome(STOPPED, "time", restart=True)
    return JobOutcome(STOPPED, "told")


def unhealthy(hosts: Sequence[str], why: Mapping[str, str]) -> JobOutcome:
    """Return the outcome of a start that had too few healthy nodes.

    It is started again without the unhealthy nodes, unless they are at least half of all. Then nodes are not the cause.
    """
    text = "\n".join(f"{host} did not pass the health check: {problem}" for host, problem in why.items())
    are_few = 2 * len(why) < len(hosts)
    return JobOutcome(NODE_FAILURE, "node", restart=are_few, text=text, excluded=tuple(why) if are_few else ())


def _describe_loss(lost: Sequence[str], failed: Sequence[NodeFailure]) -> str:
    if lost:
        are = f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'}"
        return f"{are} lost: powered off, cut off, or the launcher there was killed"
    return f"the ranks lost each other: {failed[0]['text']}"
