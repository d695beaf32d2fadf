"""Who waits for whom when the ranks of a job make no progress: from their positions, processes and stacks.

The rank that hangs is the one that waits in no collective. If all wait in collectives, it is the one that waits in
another than most, because it has left one out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from launcher.config.types import JsonObject
from launcher.distributed.heartbeat import Stage

STOPPED, UNINTERRUPTIBLE, TRACED, GONE = "stopped", "disk-sleep", "tracing-stop", "gone"
"""States of a process, as psutil names them, and of one that has ended."""
_NOUNS = {"all-gather-object": "all-gather", "broadcast-object-list": "broadcast"}


@dataclass(frozen=True)
class RankState:
    """A rank that makes no progress.

    `progress`: values to compare (see Position). `seconds`: without progress. `process`: state of the process.
    `where`: file and line of the innermost call of own code; empty: not known. `collective`: in which the rank waits;
    empty: in none that its stack shows. `opaque`: it may wait for other ranks in code that has no stack, such as the
    backward pass. `compiles`: whether it compiles. `stack`: text of its stacks. `host`: empty if there is only one.
    """

    rank: int
    step: int
    left: int
    stage: Stage
    seconds: float
    process: str = ""
    where: str = ""
    collective: str = ""
    opaque: bool = False
    compiles: bool = False
    stack: str = ""
    host: str = ""

    @property
    def progress(self) -> tuple[int, int, Stage]:
        """The values that are compared between ranks."""
        return self.step, self.left, self.stage

    @property
    def waits(self) -> bool:
        """Whether the rank waits for other ranks, or may do so."""
        return self.process != STOPPED and (bool(self.collective) or self.opaque)

    @property
    def at(self) -> str:
        """File and line in brackets, after a blank; empty: not known."""
        return f" ({self.where})" if self.where else ""

    def as_json(self) -> JsonObject:
        """Return the state as JSON."""
        return asdict(self)

    @classmethod
    def of_json(cls, state: JsonObject) -> "RankState":
        """Return the state that `as_json` has converted."""
        return cls(**{**state, "stage": Stage(state["stage"])})


@dataclass(frozen=True)
class Hang:
    """Ranks that make no progress. `rank`: the one that hangs. `seconds`: for how long. `stack`: text of its stacks."""

    rank: int
    step: int
    stage: Stage
    seconds: float
    sentence: str
    stack: str = ""
    host: str = ""


def explain(states: Sequence[RankState]) -> Hang:
    """Return the hang of a job. `states`: of all its ranks, at least one."""
    states = sorted(states, key=lambda state: state.rank)
    culprits = _culprits(states)
    others = [state for state in states if state not in culprits]
    first = culprits[0]
    sentence = _describe(culprits, others)
    if others:
        sentence += f"; {_waiting(others, with_lines=first.waits)}"
    return Hang(first.rank, first.step, first.stage, first.seconds, sentence, first.stack, first.host)


def names(ranks: Sequence[int]) -> str:
    """Return `rank 3` or `ranks 0-2, 5`."""
    groups = list[list[int]]()
    for rank in sorted(ranks):
        if groups and groups[-1][-1] == rank - 1:
            groups[-1].append(rank)
        else:
            groups.append([rank])
    text = ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def _culprits(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks for which the others wait, which all stand at the same place; all ranks: no rank differs."""
    stopped = [state for state in states if state.process == STOPPED]
    busy = stopped or [state for state in states if not state.waits]
    if busy:
        least = min(state.progress for state in busy)
        return [state for state in busy if state.progress == least]
    groups = dict[tuple[object, ...], list[RankState]]()
    for state in states:
        groups.setdefault((state.step, state.left, state.stage, state.collective, state.where), []).append(state)
    if len(groups) == 1:
        return list(states)
    # of two that differ, the one ahead has left out what the other waits for
    return min(groups.values(), key=lambda group: (len(group), [-value for value in group[0].progress]))


def _describe(culprits: Sequence[RankState], others: Sequence[RankState]) -> str:
    one = culprits[0]
    who = names([state.rank for state in culprits]) + (f" on {one.host}" if one.host else "")
    has, is_ = ("has", "is") if len(culprits) == 1 else ("have", "are")
    since, place = f"for {one.seconds:.0f} s", f"{_place(one)}{one.at}"
    if one.process == STOPPED:
        return f"{who} {is_} stopped (by SIGSTOP or a debugger), in {place}, {since}"
    if one.process == GONE:
        return f"{who} {is_} gone (killed?), since {place}, {since}"
    in_front = min((state.progress for state in others), default=one.progress)
    if not one.waits or (one.opaque and one.progress < in_front):
        stuck = ", uninterruptible (a disk or a driver)" if one.process == UNINTERRUPTIBLE else ""
        return f"{who} {has} been in {place} {since}{stuck}"
    if not others:
        return f"{who} {has} been in {_collective(one)}{one.at} {since}: no data passes between them"
    return f"{who} {has} left out a collective, and been in {_collective(one)}{one.at} {since}"


def _waiting(others: Sequence[RankState], with_lines: bool) -> str:
    """Return in what the other ranks wait. `with_lines`: also where."""
    groups = dict[str, list[int]]()
    for state in others:
        what = f"in {_collective(state) if state.waits else _place(state)}"
        what += state.at if with_lines or not state.waits else ""
        groups.setdefault(what, []).append(state.rank)
    return "; ".join(f"{names(ranks)} wait{'' if len(ranks) > 1 else 's'} {what}" for what, ranks in groups.items())


def _collective(state: RankState) -> str:
    noun = _NOUNS.get(state.collective, state.collective)
    if not noun:
        noun = "gradient all-reduce" if state.stage is Stage.BACKWARD else f"{state.stage.phase}, for the device,"
    return f"the {noun} of {_when(state)}"


def _place(state: RankState) -> str:
    return f"{state.stage.phase} of step {state.step}" if state.step else state.stage.phase


def _when(state: RankState) -> str:
    return f"step {state.step}" if state.step else state.stage.phase
