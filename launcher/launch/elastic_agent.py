"""torch's elastic agent in this process: it starts the ranks of this machine, alone or as one node of a job.

Ranks are forked from a server that has imported the common modules once. On one machine the rendezvous is a file, so
that no port is opened. On several machines it is a store that the first agent serves.
"""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config import env_vars, paths
from launcher.distributed import failure, heartbeat, logs, private_tmp, rank_end, signals
from launcher.distributed.exit_codes import DONE, FAILED
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor, write_stop_file
from launcher.launch import Launch, RanksEnded, RendezvousSpec
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import ProcessFailure

    from launcher.launch.local_agent import LocalAgent
    from launcher.launch.rank_entry import RankReport

IMPORTS = [
    "launcher.launch._fork_server", "torch.distributed", "torch._dynamo", "launcher.worker",
    "launcher.launch.rank_jobs",
]  # fmt: skip
"""Modules that every rank imports. torch's optimisers import dynamo at their first step."""
_SECONDS_TO_LEAVE = 10
"""Seconds for the other ranks to end after one has failed; then they are killed."""
_STALL_SECONDS = 10.0
"""Seconds without a heartbeat after which a rank counts as stalled, so that the others waited for it."""

_log = logging.getLogger(__name__)


def warm_up(imports: Sequence[str] = ()) -> None:
    """Start the server from which ranks are forked. It imports the ranks' modules while this process continues.

    `imports`: modules in addition to `IMPORTS`; those that cannot be imported are left out. Does nothing if there is a
    server already.
    """
    from multiprocessing import forkserver

    private_tmp.enter()
    os.environ.update(env_vars.RANK_VARIABLES)
    env_vars.set_rank_defaults(os.environ)
    multiprocessing.set_forkserver_preload([*IMPORTS, "launcher.launch._rank_imports"])
    # for the server and its ranks only: the launcher may still have to download
    own = {**env_vars.OFFLINE, env_vars.RANK_IMPORTS: " ".join(imports)}
    with signals.blocked_in_children(), env_vars.temporarily(own):
        forkserver.ensure_running()


def run(launch: Launch, spec: RendezvousSpec) -> RanksEnded:
    """Start the ranks and wait for them. Returns how they ended. Raises ForcedStop, and torch's RendezvousError if the
    other nodes are lost."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError

    from launcher.launch import node_agent

    warm_up()
    agent = _agent(launch, spec)
    rendezvous, ended = agent.get_worker_group().spec.rdzv_handler, threading.Event()
    if spec.port:
        stop = StopMonitor.of(spec.stop_file)
        threading.Thread(target=node_agent.close_after_stop, args=(rendezvous, stop, ended), daemon=True).start()
    _log.debug("starting %d ranks on %s in %s", launch.ranks, launch.device, launch.folder)
    try:
        result = agent.run()
    except RendezvousClosedError:
        return RanksEnded(DONE, closed=True)
    except (EOFError, ConnectionError):  # the server from which ranks are forked has died
        return RanksEnded(FAILED, failed=failure.Failure(0, 255, "", "", int(time.time())))
    finally:
        ended.set()
        rendezvous.shutdown()
    if (refused := RanksEnded.refused(rank_end.read(spec.folder))) is not None:
        return refused
    if result is None:  # torch's result for a reserve that was never needed
        return RanksEnded(DONE, closed=True)
    if result.is_failed():
        return RanksEnded(FAILED, failed=_cause(result.failures, spec, agent))
    return _combine(result.return_values)


def _calling_method(depth: int = 2) -> str:
    """Return the name of the method `depth` frames up, for an event of torch's rendezvous.

    It replaces a function of torch that reads the source of all frames and searches all loaded modules, which takes
    half a second at each start.
    """
    return sys._getframe(depth).f_code.co_name


class SteadyClock:
    """The part of `datetime` with which torch's rendezvous tells live nodes from dead ones.

    If the machine's clock were set an hour ahead during a run, all other nodes would count as dead.
    """

    def __init__(self) -> None:
        self._begin, self._monotonic = datetime.now(UTC), time.monotonic()

    def now(self, zone: tzinfo | None = None) -> datetime:
        """Return the time by the clock as it was set when this object was created."""
        return (self._begin + timedelta(seconds=time.monotonic() - self._monotonic)).astimezone(zone)


def _combine(reports: Mapping[int, "RankReport"]) -> RanksEnded:
    """Return how the ranks ended, from the reports of all ranks."""
    reason = max((report.reason for report in reports.values()), default=StopReason.NONE)
    code = max((report.code for report in reports.values()), default=0)
    return RanksEnded(code, reason, reports[0].result if 0 in reports else {})


def _cause(failures: Mapping[int, "ProcessFailure"], spec: RendezvousSpec, agent: "LocalAgent") -> failure.Failure:
    """Return the failure of the rank that failed first. If the failed ranks only waited for a stalled one, return that
    one."""
    positions = heartbeat.positions(spec.heartbeats)
    first = failure.with_positions(agent.failed or failure.first(failures, agent.logs), positions)
    behind = heartbeat.behind(positions)
    stalled = min((time.monotonic() - position.time for position in behind), default=0.0)
    if (
        first.hung
        or not first.gave_up
        or stalled < _STALL_SECONDS
        or len(behind) == len(positions)
        or failures.keys() & {position.rank for position in behind}
    ):
        return first
    return failure.stalled(behind[0].rank, str(behind[0]), stalled)


def _agent(launch: Launch, spec: RendezvousSpec) -> "LocalAgent":
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, dynamic_rendezvous, registry

    from launcher.launch import numa_binding, rank_entry
    from launcher.launch.local_agent import LocalAgent
    from launcher.launch.node_agent import NodeAgent
    from launcher.launch.restarts import RestartLog

    several = spec.port > 0
    if not several:
        logs.silence_elastic_agent()
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    dynamic_rendezvous.get_method_name, dynamic_rendezvous.datetime = _calling_method, SteadyClock()
    address = f"{spec.index:05}.{spec.name}" if several else spec.name  # torch orders ranks by it
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=f"{spec.host}:{spec.port}" if several else str(spec.folder / "rendezvous"),
        run_id=launch.folder.absolute().name,
        min_nodes=spec.nodes[0],
        max_nodes=spec.nodes[1],
        local_addr=address,
        **spec.options,
    )
    numa = numa_binding.options(launch.device)
    workers = WorkerSpec(
        role="default",
        local_world_size=launch.ranks,
        entrypoint=rank_entry.entry,
        args=(launch, spec),
        rdzv_handler=registry.get_rendezvous_handler(parameters),
        max_restarts=launch.max_restarts,
        monitor_interval=0.1,
        local_addr=address,
        **({"numa_options": numa} if numa else {}),
    )
    kind = NodeAgent if several else LocalAgent
    agent = kind(
        workers,
        logs_specs=DefaultLogsSpecs(log_dir=str(spec.folder)),
        start_method="forkserver",
        exit_barrier_timeout=1,  # nodes read in the run folder how others ended, and wait for no dead one
        shutdown_timeout=_SECONDS_TO_LEAVE,
    )
    agent.rendezvous, agent.launch = spec, launch
    agent.logs = failure.RankLogs.now(launch.folder / paths.LOGS)
    agent.restarts = RestartLog(RunDir(launch.folder), spec)
    return agent


@contextmanager
def stop_on_signal(file: Path, second_forces: bool = True) -> Iterator[None]:
    """Write the stop file at a signal inside the context. The ranks read it at each step.

    `second_forces`: whether a second signal raises ForcedStop.
    """

    def stop(reason: StopReason) -> None:
        error = ""
        try:
            write_stop_file(file, reason)
        except OSError as caught:
            error = f"{file} cannot be written, so that no rank hears of it: {caught.strerror}"
        signals.announce("ranks", second_forces, error)

    with signals.forwarding(stop, second_forces):
        yield
