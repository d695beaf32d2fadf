"""Execute a Launch: the one place where ranks are started.

The ranks of this machine are run by torch's elastic agent inside this process, forked from a server that has imported
torch and transformers once. They meet through a file, so that nothing listens; their messages go over the loopback.
The launcher owns the signals: TERM, INT and USR1 become a stop that all ranks agree on at a step's boundary, where they
save. A second INT or TERM ends the ranks at once.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.config.errors import UserError
from launcher.launch import Launch, _rank, failure
from launcher.plan.folder import RunFolder
from launcher.run.stop import SIGNALS

_PRELOAD = [
    "launcher.launch._server", "torch.distributed", "transformers.modeling_utils", "datasets",
    "launcher.worker",
]  # fmt: skip
DEFAULTS = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # a shared store still holds the addresses of an attempt's dead ranks
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_SECONDS_TO_LEAVE = 10
"""What the other ranks get to end after one has failed, before they are killed."""


@dataclass(frozen=True)
class Outcome:
    """The exit code, and what rank 0 found out (`told`) or what the user got wrong (`problems`). `stopped`: at once, by
    a second signal."""

    code: int
    told: dict[str, Any]
    problems: list[str]
    stopped: bool = False


def warm_up() -> None:
    """Start the server that ranks are forked from, which imports what they need while the plan is being made."""
    from multiprocessing import forkserver

    os.environ.update(DEFAULTS)
    multiprocessing.set_forkserver_preload(_PRELOAD)
    with _offline():
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


def execute(launch: Launch) -> Outcome:
    """Start the ranks and wait for them."""
    if launch.argv:
        return Outcome(_command(launch), {}, [])
    if launch.ranks > 1 and launch.device == "cpu" and not _loopback():
        raise UserError("the loopback interface is down, over which the ranks of a machine talk (ip link set lo up)")
    warm_up()
    return _elastic(launch)


def _loopback() -> bool:
    found = psutil.net_if_stats()
    return found["lo"].isup if "lo" in found else True


def _elastic(launch: Launch) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="launcher-") as meeting, _stop_on_signal(Path(meeting) / "stop"):
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # it is told below, in a sentence
            logging.getLogger(name).setLevel(logging.CRITICAL)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=launch.ranks,
            run_id=launch.folder.name,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{meeting}/rendezvous",
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=launch.max_restarts,
            start_method="forkserver",
            signals_to_handle="SIGQUIT",
            shutdown_timeout=_SECONDS_TO_LEAVE,
            logs_specs=DefaultLogsSpecs(log_dir=meeting),
        )
        try:
            told: dict[int, dict[str, Any]] = elastic_launch(config, _rank.entry)(launch, meeting)
        except ChildFailedError as error:
            folder = RunFolder(launch.folder)
            whole = folder.whole()
            what = failure.say(failure.first(error.failures), folder.logs, whole[-1].step if whole else None)
            print(what, file=sys.stderr, flush=True)
            return Outcome(1, {}, [])
        except SignalException:
            print("stopped at once: the ranks were ended without a checkpoint", file=sys.stderr, flush=True)
            return Outcome(1, {}, [], stopped=True)
    problems: list[str] = next((rank["problems"] for _, rank in sorted(told.items()) if "problems" in rank), [])
    return Outcome(max(rank["code"] for rank in told.values()), told[0].get("told", {}), problems)


@contextmanager
def _stop_on_signal(file: Path) -> Iterator[None]:
    """The first signal makes the stop file, which the ranks look for at each step."""

    def note(number: int, frame: object) -> None:
        if file.exists() and number != signal.SIGUSR1:
            from torch.distributed.elastic.multiprocessing import SignalException

            raise SignalException("told twice to stop", signal.SIGTERM)
        file.touch()
        print(
            "stopping: all ranks leave at the end of this step (once more ends them at once)",
            file=sys.stderr,
            flush=True,
        )

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(launch: Launch) -> int:
    """A starter of its own: it gets our signals, and its exit code is ours."""
    threads = {"OMP_NUM_THREADS": str(launch.threads)}
    child = subprocess.Popen(launch.argv, env={**os.environ, **DEFAULTS, **threads, **launch.env})

    def forward(number: int, frame: object) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    return child.wait()
