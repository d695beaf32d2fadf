"""torch's elastic agent in this process: the ranks of this machine, and of a job of several the part that is here.

Ranks are forked from a server that has imported once what all of them need. On one machine they meet through a file,
so that nothing listens; of several machines the agents meet at a store that the first one serves.
"""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.distributed import failure, private_tmp, signals
from launcher.distributed.shutdown import Stop, tell
from launcher.distributed.signals import Reason
from launcher.launch import Launch
from launcher.launch.agent_types import RanksEnded, RendezvousSpec

_IMPORTS = [
    "launcher.launch._fork_server", "torch.distributed", "torch._dynamo", "datasets",
    "launcher.worker",
]  # fmt: skip
"""Of every rank, whatever it trains: torch's optimisers import dynamo at their first step."""
DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # a shared store still holds the addresses of an attempt's dead ranks
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_SECONDS_TO_LEAVE = 10
"""What the other ranks get to end after one has failed, before they are killed."""
_STILL = 10.0
"""Seconds without a beat after which a rank that others lost counts as the one that they waited for."""
LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing")


def warm_up(imports: Sequence[str] = ()) -> None:
    """Start the server that ranks are forked from, which imports what they need, and `imports`, while something else is
    done. Nothing where there is one already."""
    from multiprocessing import forkserver

    private_tmp.enter()
    os.environ.update(DEFAULTS)
    multiprocessing.set_forkserver_preload([*_IMPORTS, *imports])
    with signals.waiting_in_children(), _offline():
        forkserver.ensure_running()


@contextmanager
def _offline() -> Iterator[None]:
    """For the server and its ranks: what they need was brought before, and a node may have no internet. The launcher
    itself may have yet to bring it."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update(OFFLINE)
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def run(launch: Launch, meeting: RendezvousSpec) -> RanksEnded:
    """Start the ranks and wait. Raises ForcedStop, and torch's RendezvousError where the other nodes are lost."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError

    from launcher.distributed import multi_node_agent

    warm_up()
    agent = _agent(launch, meeting)
    rendezvous, over = agent.get_worker_group().spec.rdzv_handler, threading.Event()
    if meeting.port:
        stop = Stop.of(meeting.folder / "stop")
        threading.Thread(target=multi_node_agent.let_go, args=(rendezvous, stop, over), daemon=True).start()
    try:
        result = agent.run()
    except RendezvousClosedError:
        return RanksEnded(0, closed=True)
    except (EOFError, ConnectionError):
        return RanksEnded(1, failed=failure.Failure(0, 255, "", "", int(time.time())))
    finally:
        over.set()
        rendezvous.shutdown()
    if result.is_failed():
        return RanksEnded(1, failed=_cause(result.failures, meeting))
    told: dict[int, dict[str, Any]] = result.return_values
    problems: list[str] = next((rank["problems"] for _, rank in sorted(told.items()) if "problems" in rank), [])
    reason = Reason(max((rank.get("reason", 0) for rank in told.values()), default=0))
    code = max((rank["code"] for rank in told.values()), default=0)
    return RanksEnded(code, reason, told.get(0, {}).get("told", {}), problems)


def _cause(failures: dict[int, Any], meeting: RendezvousSpec) -> failure.Failure:
    """The rank that failed first; where those that failed only lost another, the one that they had waited for."""
    from launcher.distributed import heartbeat

    first = failure.first(failures)
    positions = heartbeat.read(meeting.heartbeats)
    behind = heartbeat.behind(positions)
    still = min((time.monotonic() - position.time for position in behind), default=0.0)
    if not first.echo or still < _STILL or len(behind) == len(positions) or failures.keys() & {p.rank for p in behind}:
        return first
    return failure.stood_still(behind[0].rank, str(behind[0]), still)


def _agent(launch: Launch, meeting: RendezvousSpec) -> Any:
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    from launcher.distributed.local_agent import LocalAgent
    from launcher.distributed.multi_node_agent import WatchingAgent
    from launcher.launch import rank_entry

    several = meeting.port > 0
    for name in LOGGERS:  # what happens is told in a sentence; of a job of several nodes all of it stands in its log
        logging.getLogger(name).setLevel(logging.INFO if several else logging.CRITICAL)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    address = f"{meeting.index:05}.{meeting.name}" if several else meeting.name  # the order of ranks goes by it
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=f"{meeting.host}:{meeting.port}" if several else str(meeting.folder / "rendezvous"),
        run_id=launch.folder.absolute().name,
        min_nodes=meeting.nodes[0],
        max_nodes=meeting.nodes[1],
        local_addr=address,
        **meeting.rendezvous,
    )
    spec = WorkerSpec(
        role="default",
        local_world_size=launch.ranks,
        entrypoint=rank_entry.entry,
        args=(launch, meeting),
        rdzv_handler=registry.get_rendezvous_handler(parameters),
        max_restarts=launch.max_restarts,
        monitor_interval=0.1,
        local_addr=address,
    )
    kind = WatchingAgent if several else LocalAgent
    agent = kind(
        spec,
        logs_specs=DefaultLogsSpecs(log_dir=str(meeting.folder)),
        start_method="forkserver",
        exit_barrier_timeout=1,  # who ended how is found out in the run folder, which does not wait for the dead
        shutdown_timeout=_SECONDS_TO_LEAVE,
    )
    agent.heartbeats = meeting.heartbeats
    if isinstance(agent, WatchingAgent):
        agent.together = meeting.together
    return agent


@contextmanager
def stop_on_signal(file: Path, forces: bool = True) -> Iterator[None]:
    """A signal makes the stop file, which the ranks look for at each step. `forces`: a second one ends them at once."""

    def stop(reason: Reason) -> None:
        again = " (once more ends them at once)" if forces else ""
        try:
            tell(file, reason)
            signals.say(f"stopping: all ranks leave at the end of this step{again}")
        except OSError as error:
            signals.say(f"{file} cannot be written, so that no rank hears of it: {error.strerror}{again}")

    with signals.passing_on(stop, forces):
        yield
