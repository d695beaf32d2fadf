"""Execute a Launch: the one place where the ranks of this machine are started.

The launcher owns the signals: each becomes a stop that all ranks agree on at a step's boundary, where they save. A
second one ends the ranks at once.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.config.errors import UserError
from launcher.distributed import failure, local_run_record, private_tmp, process_tree, signals
from launcher.distributed.local_run_record import LocalStart
from launcher.distributed.signals import STOPPED, ForcedStop, Reason
from launcher.launch import Launch, elastic_agent, starter
from launcher.launch.agent_types import RanksEnded, RendezvousSpec
from launcher.launch.elastic_agent import warm_up
from launcher.storage.run_dir import RunDir, over

__all__ = ["Outcome", "execute", "warm_up"]


@dataclass(frozen=True)
class Outcome:
    """The exit code, and what rank 0 found out (`told`) or what the user got wrong (`problems`)."""

    code: int
    told: dict[str, Any]
    problems: list[str]


def execute(launch: Launch) -> Outcome:
    """Start the ranks and wait for them. Those that train are asked to leave by a signal; those that only look have
    nothing to save, and end with this process."""
    if launch.ranks > 1 and launch.device == "cpu" and not _loopback():
        raise UserError("the loopback interface is down, over which the ranks of a machine talk (ip link set lo up)")
    private_tmp.enter()
    run = RunDir(launch.folder)
    with tempfile.TemporaryDirectory() as name:
        if launch.job != "train":
            return _outcome(run, _start(launch, Path(name)))
        with local_run_record.recorded(run, launch.ranks) as record:
            return _train(launch, Path(name), run, record)


def _train(launch: Launch, folder: Path, run: RunDir, record: LocalStart) -> Outcome:
    """Start the ranks; a signal makes the stop file in `folder`."""
    try:
        with elastic_agent.stop_on_signal(folder / "stop"):
            ended = _start(launch, folder)
    except ForcedStop:
        process_tree.end()  # it may have come while the agent was waiting for its ranks to end
        outcome = _stopped_at_once(run, launch.steps)
        record.end(STOPPED if outcome.code else 0, Reason.STOP)
        return outcome
    failed = ended.failed
    error = "; ".join(ended.problems) if failed is None else failure.sentence(failed)
    record.end(ended.code, ended.reason, error, failed.rank if failed is not None else None)
    return _outcome(run, ended)


def _start(launch: Launch, folder: Path) -> RanksEnded:
    """Start the ranks and wait for them. `folder`: of this start."""
    start = starter.run if launch.argv else elastic_agent.run
    return start(launch, RendezvousSpec(folder))


def _outcome(run: RunDir, ended: RanksEnded) -> Outcome:
    """What the ranks came to, which is reported where it is no success."""
    if ended.failed is not None:
        print(told(ended.failed, run), file=sys.stderr, flush=True)
    if ended.code == STOPPED:
        signals.say(f"stopped: {saved(run)}")
    return Outcome(ended.code, ended.told, ended.problems)


def _stopped_at_once(run: RunDir, steps: int) -> Outcome:
    """What a second signal has left: a run that is done, or has a checkpoint that it goes on from. `steps`: of the
    whole run, 0 where nobody knows."""
    whole = run.whole()
    done = over(whole[-1] if whole else None, steps or None)
    signals.say(f"stopped at once: the ranks were ended; {done or saved(run)}")
    return Outcome(0 if done else STOPPED if whole else 1, {}, [])


def saved(run: RunDir) -> str:
    """Which step a run goes on from."""
    whole = run.whole()
    return f"step {whole[-1].step} is saved (start it again and it goes on)" if whole else "no checkpoint was saved"


def told(failed: failure.Failure, folder: RunDir) -> str:
    """What is said of a failed rank."""
    whole = folder.whole()
    return failure.say(failed, folder.logs, whole[-1].step if whole else None)


def _loopback() -> bool:
    found = psutil.net_if_stats()
    return found["lo"].isup if "lo" in found else True
