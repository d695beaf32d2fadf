"""What runs on a rank that the launcher started: its log, its place, then the worker."""

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import psutil

from launcher.config.errors import UserError
from launcher.distributed import failure, output_streams, private_tmp, rank_log, starter_handshake
from launcher.distributed.signals import PARENT_DIED
from launcher.launch import Launch
from launcher.launch.agent_types import RendezvousSpec


def entry(launch: Launch, meeting: RendezvousSpec) -> dict[str, Any]:
    """Called by the elastic agent on each rank. Returns what the launcher needs to know: `code`, the `reason` for
    leaving early, and `problems` or what was `told`. An error ends the process here: Python would first wait for every
    thread that lives, and the error would be heard when they end, or never."""
    output_streams.set_up(lasting=True)
    started_by = os.getppid()
    try:
        told = _live(launch, meeting)
    except BaseException as error:
        _fail(error)
    # where the launcher is dead, or dies from here on, nobody would ever read what is returned
    signal.signal(PARENT_DIED, lambda number, frame: os._exit(told["code"]))
    if os.getppid() != started_by or not psutil.pid_exists(meeting.launcher):
        os._exit(told["code"])
    return told


def _fail(error: BaseException) -> NoReturn:
    """Write the error into the rank's log and into the file that the agent reads, and end."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    error = failure.of_exit(error)
    with suppress(OSError):  # the log's disk is full
        traceback.print_exception(error)
    with suppress(OSError):  # so is that of the file: the exit code is all that can be told
        try:
            raise error  # which torch's handler formats
        except BaseException:
            get_error_handler().record_exception(error)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(1)


def _live(launch: Launch, meeting: RendezvousSpec) -> dict[str, Any]:
    os.environ.update(launch.env)
    from launcher import worker
    from launcher.distributed import process_group
    from launcher.distributed.heartbeat import Heartbeat
    from launcher.distributed.shutdown import Stop
    from launcher.distributed.signals import Reason
    from launcher.train.checkpoint import RunReplaced

    stop = Stop.of(meeting.folder / "stop")
    stop.listen(meeting.launcher)
    at = process_group.place()
    rank_log.redirect(launch.folder, at.rank)
    private_tmp.enter()
    heartbeat = Heartbeat(meeting.heartbeats, at.local_rank, at.rank)
    connected = None
    try:
        if launch.job == "train":
            process_group.require(launch.device)
        store = _store(meeting, at.world)
        connected = process_group.connect(at, launch.device, store, timedelta(minutes=launch.timeout))
        if meeting.port:
            process_group.exchange(connected, _hosts(store, at, meeting.name))
        if launch.job == "evaluate":
            return {"code": 0, "told": worker.evaluate(launch.folder, connected, launch.checkpoint)}
        if launch.job == "measure":
            return {"code": 0, "told": worker.measure(launch.folder, connected, stop, launch.steps)}
        return {"code": worker.train(launch.folder, connected, stop, heartbeat), "reason": int(stop.heeded)}
    except UserError as error:
        print(error, file=sys.stderr, flush=True)  # into its log; the launcher says it to the user
        return {"code": 2, "reason": int(stop.heeded), "problems": [str(problem) for problem in error.problems]}
    except RunReplaced as error:
        return {"code": 1, "reason": int(Reason.REPLACED), "problems": [str(error)]}
    except Exception as error:
        if failure.lost_a_peer(str(error)):
            _let_the_cause_be_seen(stop, meeting)
        raise
    finally:
        if connected is not None and sys.exc_info()[0] is None:
            connected.close()


def _store(meeting: RendezvousSpec, world: int) -> Any:
    """Where this attempt's ranks meet: a file of this machine, or what the first node serves. Each attempt has one of
    its own, without the addresses of ranks that are dead. Agents count attempts each for itself; what they agree on is
    the port that the first of them draws."""
    import torch.distributed as dist

    if not meeting.port:
        return starter_handshake.file_store(meeting.folder, world)
    served = dist.TCPStore(meeting.host, meeting.port, is_master=False, timeout=timedelta(minutes=5))
    return dist.PrefixStore(f"ranks-{os.environ['MASTER_PORT']}-{world}", served)


def _hosts(store: Any, at: Any, name: str) -> list[str]:
    """The host of each rank."""
    store.set(f"host-{at.rank}", name)
    return [store.get(f"host-{rank}").decode() for rank in range(at.world)]


def _let_the_cause_be_seen(stop: Any, meeting: RendezvousSpec) -> None:
    """The agent names the first rank that it finds dead: one that only lost a peer waits until it is told to end. Where
    there are other nodes the cause may well be there."""
    end = time.monotonic() + (1.5 if meeting.nodes[1] > 1 else 5)
    while time.monotonic() < end and not stop.told:
        time.sleep(0.02)
