"""One rank, from a run folder to the last step.

Ranks that the launcher starts call `train`. `python -m launcher.worker RECIPE [key=value ...]` does the same under
torchrun, accelerate, srun or mpirun, or alone. Then rank 0 plans and prepares first, and the others wait for it.
"""

import dataclasses
import logging
import os
import re
import sys
import time
from datetime import timedelta
from pathlib import Path

from launcher.config import env_vars
from launcher.distributed import garbage_collection

if __name__ == "__main__":
    env_vars.set_rank_defaults(os.environ)  # before torch is imported, which reads some of them at once
    garbage_collection.seldom()

from launcher.config import load, paths, trust
from launcher.config.errors import UserError
from launcher.config.watchdog import Watchdog
from launcher.distributed import (
    failure,
    failure_notice,
    group_watchdog,
    host_memory,
    launch_env,
    local_run_record,
    logs,
    output_streams,
    private_tmp,
    process_group,
    rank_device,
    rank_end,
    rank_rendezvous,
    run_ledger,
    signals,
    stacks,
)
from launcher.distributed.exit_codes import FAILED, INVALID_INPUT, STOPPED
from launcher.distributed.heartbeat import HEARTBEATS, Heartbeat
from launcher.distributed.launch_env import LauncherInfo, UnreachablePeer
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.rendezvous import file_store
from launcher.distributed.signals import StopReason, StopRequested
from launcher.distributed.stop_requests import STOP_FILE, StopMonitor, StoppedBeforeTraining, interruptible
from launcher.plan import writable_folders
from launcher.prepare import run_setup
from launcher.rank_training import train
from launcher.storage.run_dir import RunDir
from launcher.train.checkpoint import RunReplaced

_LOCAL_RANK = re.compile(r"--local[-_]rank=\d+")  # which DeepSpeed's launcher inserts before the arguments
_BROADCAST_SECONDS = 1.0
"""Seconds for rank 0 to inform the others that it leaves."""

_log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run a rank that the launcher's agent did not start, and return the exit code. `arguments`: `[--trust KIND ...]
    RECIPE [key=value ...]`. The environment has the rank's number."""
    arguments = [word for word in arguments if not _LOCAL_RANK.fullmatch(word)]
    while arguments[:1] == ["--trust"]:
        trust.trust(arguments[1:2])
        arguments = arguments[2:]
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m launcher.worker [--trust KIND ...] RECIPE [key=value ...]", file=sys.stderr)
        return INVALID_INPUT
    launcher = LauncherInfo.of(os.environ)
    stop = StopMonitor(launcher.folder / STOP_FILE if launcher else None)
    stop.listen(launcher.pid if launcher else None)
    end = _run(arguments, stop, launcher)
    if launcher is None:
        if end.group is not None and end.code in (FAILED, INVALID_INPUT):
            failure_notice.post(end.group)
        return end.code
    rank_end.write(launcher.folder, end.rank, end.code, stop.agreed, end.problems, end.error)
    return int(end.code == FAILED)  # a starter only knows success and failure; its launcher reads the report


@dataclasses.dataclass(frozen=True)
class _RankEnd:
    """How a rank ended. `problems`: user errors."""

    rank: int
    code: int
    problems: list[str] = dataclasses.field(default_factory=list)
    error: BaseException | None = None
    group: ProcessGroup | None = None


def _run(arguments: list[str], stop: StopMonitor, launcher: LauncherInfo | None) -> _RankEnd:
    """Join the other ranks, prepare, and train. Returns how the rank ended. An error is logged here if no launcher
    reports it."""
    group, rank = None, int(os.environ.get("RANK") or 0)
    try:
        private_tmp.enter()
        group = _join(arguments[0], stop, launcher)
        rank = group.rank
        if group.device.type == "cpu":
            host_memory.keep_freed(os.environ)
        folder = _wait_for_preparation(arguments, group, stop)
        code = _train_and_record(folder, group, stop, launcher)
        group.close()
        stacks.remove_empty(folder / paths.LOGS, rank)
        return _RankEnd(rank, code)
    except StoppedBeforeTraining:
        before = "all ranks had joined" if group is None else "training began"
        _log.warning("asked to stop before %s: nothing was trained", before)
        return _RankEnd(rank, STOPPED)
    except UserError as error:
        if launcher is not None or (_reports_for_host() if group is None else group.first_to_claim("user-error")):
            _log.error(error)  # with a launcher, it goes to the log of the rank or the starter
        return _RankEnd(rank, INVALID_INPUT, [str(problem) for problem in error.problems], group=group)
    except (UnreachablePeer, RunReplaced) as error:
        _log.error(error)
        return _RankEnd(rank, FAILED, error=error, group=group)
    except BaseException as error:
        cause = failure.explain_exit(error)
        _report(cause, "a rank" if group is None else f"rank {rank}", stop)
        return _RankEnd(rank, FAILED, error=cause, group=group)


def _join(recipe: str, stop: StopMonitor, launcher: LauncherInfo | None) -> ProcessGroup:
    """Connect to the other ranks of a start, if the launcher's own agent did not make it.

    Raises UserError, UnreachablePeer or StoppedBeforeTraining.
    """
    if problems := launch_env.contradictions():
        raise UserError(problems)
    info, device = launch_env.rank_info(), launcher.device if launcher else None
    if info.world == 1:
        return process_group.connect(info, device)
    if Path(recipe).suffix and not Path(recipe).exists():
        what = f"rank {info.rank} on {launch_env.host_name()} sees no such file in {Path.cwd()}"
        raise UserError(f"{recipe}: {what} (of several nodes each needs to see this folder)")
    if launcher is None:
        group = rank_rendezvous.connect(info, lambda: bool(stop.requested()))
        failure_notice.watch(group)
    else:
        timeout = timedelta(minutes=launcher.timeout)
        group = process_group.connect(info, device, file_store(launcher.folder, info.world), timeout)
        process_group.first_all_reduce(group)
    return group


def _wait_for_preparation(arguments: list[str], group: ProcessGroup, stop: StopMonitor) -> Path:
    """Return the run folder, which rank 0 prepares while the others wait. Raises UserError or StoppedBeforeTraining, on
    every rank."""
    prepared: tuple[str, list[str]] | None = None
    if group.rank == 0:
        try:
            with signals.interrupting(private_tmp.leave):
                prepared = ("", []) if stop.received else _prepare(arguments, group)
        except StopRequested:
            stop.received = StopReason.STOP
            prepared = "", []
    folder, problems = interruptible(lambda: group.broadcast(prepared), lambda: bool(stop.received), _BROADCAST_SECONDS)
    if problems:
        raise UserError(problems)
    if not folder:
        raise StoppedBeforeTraining
    return Path(folder)


def _prepare(arguments: list[str], group: ProcessGroup) -> tuple[str, list[str]]:
    """Plan and prepare, as rank 0. Returns the run folder (empty: it failed), and the problems, which all ranks then
    raise."""
    try:
        cluster = load.local_cluster()
        spread, per_node, devices = rank_device.node_of(cluster, group)
        recipe = load.recipe(arguments[0], arguments[1:])
        wrong = writable_folders.run(RunDir(paths.RUNS / recipe.value.name))
        begin = time.monotonic()
        validated = run_setup.validate(recipe, spread, per_node, wrong, devices)
        run = run_setup.create(dataclasses.replace(validated, cluster=cluster))
        run_ledger.record_command(run.folder, prepare=time.monotonic() - begin)
    except UserError as error:
        return "", [str(problem) for problem in error.problems]
    for note in run.notes:
        _log.info("note: %s", note)
    return str(run.folder.path), []


def _train_and_record(folder: Path, group: ProcessGroup, stop: StopMonitor, launcher: LauncherInfo | None) -> int:
    """Train with the rank's log open, and return the exit code. If there is no launcher, rank 0 records the start in
    the run's job log."""
    if launcher is not None:
        logs.redirect_rank(folder, group.rank)
        stacks.register(folder / paths.LOGS, group.rank)
        local_rank = launch_env.rank_info().local_rank
        return train(folder, group, stop, Heartbeat(launcher.folder / HEARTBEATS, local_rank, group.rank))
    logs.copy_rank(folder, group.rank)
    heartbeat = group_watchdog.start(group, folder, Watchdog.of(os.environ))
    if group.rank > 0 or env_vars.JOB in os.environ:
        return train(folder, group, stop, heartbeat)
    with local_run_record.recorded(RunDir(folder), group.world) as record:
        code = train(folder, group, stop, heartbeat)
        record.end(code, stop.agreed)
    return code


def _reports_for_host() -> bool:
    """Return whether this rank reports a user error before the ranks have joined. One rank of each host does."""
    try:
        return launch_env.rank_info().local_rank == 0
    except UserError:
        return True


def _report(error: BaseException, rank: str, stop: StopMonitor) -> None:
    """Log an error and its traceback. A rank that only lost a peer waits first, because its starter may end it."""
    if not failure.lost_a_peer(str(error)):
        _log.error("%s %s", rank, failure.describe(error), exc_info=error)
        return
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not stop.received:
        time.sleep(0.02)
    if not stop.received:
        _log.error("%s ended because it lost another rank (see the log of that rank)", rank)


if __name__ == "__main__":
    garbage_collection.resume()
    output_streams.set_up(lasting=True)
    logs.set_up()
    code = main(sys.argv[1:])
    private_tmp.leave()
    output_streams.exit_now(code)
