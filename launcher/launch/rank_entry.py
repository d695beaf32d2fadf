"""Process of a rank that the launcher's agent starts: its log, its process group, and its job."""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import psutil

from launcher.config import paths
from launcher.config.errors import UserError
from launcher.distributed import failure, garbage_collection, logs, output_streams, private_tmp, rank_end, stacks
from launcher.distributed.exit_codes import DONE, FAILED, INVALID_INPUT
from launcher.distributed.signals import PARENT_DIED, StopReason
from launcher.launch import Launch, RankResult, RendezvousSpec

if TYPE_CHECKING:
    import torch.distributed as dist

    from launcher.distributed.stop_requests import StopMonitor

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankReport:
    """Report of a rank, which the launcher gets when all ranks have ended. `reason`: why the rank left early. `result`:
    of an evaluation or a measurement."""

    code: int
    reason: StopReason = StopReason.NONE
    result: RankResult = field(default_factory=dict)


def entry(launch: Launch, spec: RendezvousSpec) -> RankReport:
    """Run a rank and return its report. The elastic agent calls this in the process of each rank.

    An error ends the process here. Otherwise Python would first wait for all threads, and the agent would learn of the
    error late or never.
    """
    output_streams.set_up(lasting=True)
    logs.set_up()
    parent = os.getppid()
    try:
        report = _run(launch, spec)
    except BaseException as error:
        _exit_failed(error)
    # if the launcher is dead, or dies from now on, nothing will read the report
    signal.signal(PARENT_DIED, lambda number, frame: os._exit(report.code))
    if os.getppid() != parent or not psutil.pid_exists(spec.launcher):
        os._exit(report.code)
    return report


def _exit_failed(error: BaseException) -> NoReturn:
    """Write the error to the rank's log and to the file that the agent reads, and end the process."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    error = failure.explain_exit(error)
    with suppress(OSError):  # the log's disk is full
        traceback.print_exception(error)
    with suppress(OSError):  # the disk of the error file is full, so that the agent gets only the exit code
        try:
            raise error  # torch's handler formats the current exception
        except BaseException:
            get_error_handler().record_exception(error)
    output_streams.exit_now(FAILED)


def _exit_refused(
    spec: RendezvousSpec, rank: int, code: int, reason: StopReason, problems: Sequence[object]
) -> NoReturn:
    """Report user errors and end the process, because other ranks, which may have none, could wait for this one."""
    rank_end.write(spec.folder, rank, code, reason, problems)
    output_streams.exit_now(code)


def _run(launch: Launch, spec: RendezvousSpec) -> RankReport:
    os.environ.update(launch.env)
    from launcher import rank_training
    from launcher.distributed import host_memory, process_group, rank_device
    from launcher.distributed.heartbeat import Heartbeat
    from launcher.distributed.launch_env import UnreachablePeer, rank_info
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.launch import rank_jobs
    from launcher.train.checkpoint import RunReplaced

    garbage_collection.resume()
    stop = StopMonitor.of(spec.stop_file)
    stop.listen(spec.launcher)
    info = rank_info()
    logs.redirect_rank(launch.folder, info.rank)
    stacks.register(launch.folder / paths.LOGS, info.rank)
    private_tmp.enter()
    heartbeat = Heartbeat(spec.heartbeats, info.local_rank, info.rank)
    group = None
    try:
        if launch.job == "train":
            rank_device.require(launch.device)
        store, host = _store(spec, info.world), spec.name if spec.port else ""
        timeout = timedelta(minutes=launch.timeout)
        group = process_group.connect(info, launch.device, store, timeout, host=host)
        if group.device.type == "cpu":
            host_memory.keep_freed(os.environ)
        if spec.port:
            process_group.exchange(group)
        process_group.first_all_reduce(group)
        if launch.job == "evaluate":
            return RankReport(DONE, result=rank_jobs.evaluate(launch.folder, group, launch.checkpoint, launch.split))
        if launch.job == "measure":
            return RankReport(DONE, result=rank_jobs.measure(launch.folder, group, stop, launch.steps))
        if launch.job == "tune":
            return RankReport(DONE, result=rank_jobs.tune(launch.folder, group, stop))
        code = rank_training.train(launch.folder, group, stop, heartbeat)
        return RankReport(code, stop.agreed)
    except UserError as error:
        _log.error(error)  # the launcher reports it to the user
        _exit_refused(spec, info.rank, INVALID_INPUT, stop.agreed, error.problems)
    except RunReplaced as error:
        _exit_refused(spec, info.rank, FAILED, StopReason.REPLACED, [error])
    except Exception as error:
        if isinstance(error, UnreachablePeer) or failure.lost_a_peer(str(error)):
            _let_the_cause_fail_first(stop, spec)
        raise
    finally:
        if group is not None and sys.exc_info()[0] is None:
            group.close()
        stacks.remove_empty(launch.folder / paths.LOGS, info.rank)


def _store(spec: RendezvousSpec, world: int) -> "dist.Store":
    """Return the store of this attempt's ranks: a file of this machine, or the store that the first node serves.

    Each attempt has a separate store, without the addresses of dead ranks. Agents count attempts independently, so that
    the name contains the port that the first agent draws for all of them.
    """
    import torch.distributed as dist

    from launcher.distributed.rendezvous import file_store

    if not spec.port:
        return file_store(spec.folder, world)
    served = dist.TCPStore(spec.host, spec.port, is_master=False, timeout=timedelta(minutes=5))
    return dist.PrefixStore(f"ranks-{os.environ['MASTER_PORT']}-{world}", served)


def _let_the_cause_fail_first(stop: "StopMonitor", spec: RendezvousSpec) -> None:
    """Wait until the agent ends this process, as a rank that only lost a peer.

    The agent reports the first dead rank that it finds, which should be the cause. The wait is short if there are
    several nodes, because the cause may be on another node.
    """
    deadline = time.monotonic() + (1.5 if spec.nodes[1] > 1 else 5)
    while time.monotonic() < deadline and not stop.received:
        time.sleep(0.02)
