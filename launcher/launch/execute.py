"""Execute a Launch: the one place where the ranks of this machine are started.

The launcher owns the signals: USR1, TERM and INT become a stop that all ranks agree on at a step's boundary, where they
save. A second INT or TERM ends the ranks at once.
"""

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.config.errors import UserError
from launcher.launch import Launch, elastic, failure
from launcher.launch.elastic import DEFAULTS, warm_up
from launcher.plan.folder import RunFolder

__all__ = ["Outcome", "execute", "warm_up"]


@dataclass(frozen=True)
class Outcome:
    """The exit code, and what rank 0 found out (`told`) or what the user got wrong (`problems`). `stopped`: at once, by
    a second signal."""

    code: int
    told: dict[str, Any]
    problems: list[str]
    stopped: bool = False


def execute(launch: Launch) -> Outcome:
    """Start the ranks and wait for them."""
    if launch.argv:
        return Outcome(_command(launch), {}, [])
    if launch.ranks > 1 and launch.device == "cpu" and not _loopback():
        raise UserError("the loopback interface is down, over which the ranks of a machine talk (ip link set lo up)")
    with tempfile.TemporaryDirectory(prefix="launcher-") as name:
        folder = Path(name)
        try:
            with elastic.stop_on_signal(folder / "stop"):
                ended = elastic.run(launch, elastic.Meeting(folder))
        except elastic.Twice:
            print("stopped at once: the ranks were ended without a checkpoint", file=sys.stderr, flush=True)
            return Outcome(1, {}, [], stopped=True)
    if ended.failed is not None:
        print(told(ended.failed, RunFolder(launch.folder)), file=sys.stderr, flush=True)
    return Outcome(ended.code, ended.told, ended.problems)


def told(failed: failure.Failure, folder: RunFolder) -> str:
    """What is said of a failed rank."""
    whole = folder.whole()
    return failure.say(failed, folder.logs, whole[-1].step if whole else None)


def _loopback() -> bool:
    found = psutil.net_if_stats()
    return found["lo"].isup if "lo" in found else True


def _command(launch: Launch) -> int:
    """A starter of its own: it gets our signals, and its exit code is ours."""
    threads = {"OMP_NUM_THREADS": str(launch.threads)}
    child = subprocess.Popen(launch.argv, env={**os.environ, **DEFAULTS, **threads, **launch.env})

    def forward(number: int, frame: object) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    return child.wait()
