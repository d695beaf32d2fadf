"""Execution of a Launch: the only place that starts the ranks of this machine.

The launcher handles the signals. Each becomes a stop request; all ranks then agree on the step before which they save
and stop. A second signal ends the ranks at once.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.config.errors import UserError
from launcher.distributed import failure, local_run_record, output_streams, private_tmp, signals
from launcher.distributed.descendants import kill_descendants
from launcher.distributed.exit_codes import DONE, FAILED, STOPPED
from launcher.distributed.local_run_record import LocalStart
from launcher.distributed.signals import ForcedStop, StopReason
from launcher.launch import Launch, RankResult, RanksEnded, RendezvousSpec, elastic_agent, starter
from launcher.launch.elastic_agent import warm_up
from launcher.storage.run_dir import RunDir, over

__all__ = ["Outcome", "execute", "warm_up"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Exit code, result of rank 0, and user errors."""

    code: int
    result: RankResult
    problems: list[str]


def execute(launch: Launch) -> Outcome:
    """Start the ranks and wait for them. Returns the outcome. Raises UserError if the loopback interface is down.

    A signal asks training ranks to stop. Ranks that evaluate or measure have nothing to save, and end with this
    process.
    """
    if launch.ranks > 1 and launch.device == "cpu" and not _has_loopback():
        raise UserError("the loopback interface is down, over which the ranks of a machine talk (ip link set lo up)")
    private_tmp.enter()
    run = RunDir(launch.folder)
    with tempfile.TemporaryDirectory() as name:
        if launch.job != "train":
            return _report(run, _start(launch, Path(name)))
        with local_run_record.recorded(run, launch.ranks) as record:
            return _train(launch, Path(name), run, record)


def _train(launch: Launch, folder: Path, run: RunDir, record: LocalStart) -> Outcome:
    """Start training ranks and wait for them. A signal writes the stop file into `folder`."""
    try:
        with elastic_agent.stop_on_signal(RendezvousSpec(folder).stop_file):
            ended = _start(launch, folder)
    except ForcedStop:
        kill_descendants()  # the agent may still be waiting for its ranks
        outcome = _forced_outcome(run, launch.steps)
        record.end(STOPPED if outcome.code else DONE, StopReason.STOP)
        return outcome
    finally:
        output_streams.erase_display()
    failed = ended.failed
    error = "; ".join(ended.problems) if failed is None else failure.sentence(failed)
    record.end(ended.code, ended.reason, error, failed.rank if failed is not None else None)
    return _report(run, ended)


def _start(launch: Launch, folder: Path) -> RanksEnded:
    """Start the ranks and wait for them. `folder`: a folder for this start only."""
    start = starter.run if launch.argv else elastic_agent.run
    return start(launch, RendezvousSpec(folder))


def _report(run: RunDir, ended: RanksEnded) -> Outcome:
    """Return the outcome, and report a failure or a stop."""
    if ended.failed is not None:
        _log.error(describe_failure(ended.failed, run))
    if ended.code == STOPPED:
        signals.say(f"stopped: {describe_checkpoint(run)}")
    return Outcome(ended.code, ended.result, ended.problems)


def _forced_outcome(run: RunDir, steps: int) -> Outcome:
    """Return the outcome after a second signal: the run is done, or resumes from a checkpoint, or has none.

    `steps`: number of steps of the whole run; 0: not known.
    """
    complete = run.whole()
    done = over(complete[-1] if complete else None, steps or None)
    signals.say(f"stopped at once: the ranks were ended; {done or describe_checkpoint(run)}")
    return Outcome(DONE if done else STOPPED if complete else FAILED, {}, [])


def describe_checkpoint(run: RunDir) -> str:
    """Return a text about the step from which a run resumes."""
    complete = run.whole()
    return (
        f"step {complete[-1].step} is saved (start it again and it goes on)" if complete else "no checkpoint was saved"
    )


def describe_failure(failed: failure.Failure, run: RunDir, host: str = "") -> str:
    """Return a text about a failed rank, and about the step from which the run resumes. `host`: of the rank, if there
    are several."""
    complete = run.whole()
    return failure.report(failed, run.logs, complete[-1].step if complete else None, host)


def _has_loopback() -> bool:
    interfaces = psutil.net_if_stats()
    return interfaces["lo"].isup if "lo" in interfaces else True
