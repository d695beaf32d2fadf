"""Ranks that torchrun or accelerate start, as a child of the launcher, with the promises of the launcher's own agent.

The child and its ranks are a process group of their own: the launcher alone hears the terminal, and tells the ranks by
the stop file. A rank reports how it ended in a file, since a starter knows success and failure only. When the launcher
dies the kernel kills the starter, and its ranks save and leave. They meet through files: nothing listens beyond the
loopback.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher.distributed import failure, heartbeat, parent_death, process_tree
from launcher.distributed.signals import PARENT_DIED, SIGNALS, Reason
from launcher.distributed.stall_report import StallReport
from launcher.distributed.starter_handshake import FOLDER, LAUNCHER, TIMEOUT
from launcher.launch import Launch
from launcher.launch.agent_types import RanksEnded, RendezvousSpec
from launcher.launch.elastic_agent import DEFAULTS

_LOG = "starter.log"
_UNSAID = "it was killed, or left, before it could say why (logs/starter.log may know)"
_LOOK = 0.2
"""Seconds between two looks at the child."""


def run(launch: Launch, meeting: RendezvousSpec) -> RanksEnded:
    """Start the command and wait for it and its ranks. Raises ForcedStop."""
    own = {
        FOLDER: str(meeting.folder), LAUNCHER: str(meeting.launcher), TIMEOUT: str(launch.timeout),
        "OMP_NUM_THREADS": str(launch.threads), "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT",
        "PET_RDZV_ENDPOINT": str(meeting.folder / "rendezvous"),
    }  # fmt: skip
    heartbeat.create(meeting.heartbeats, launch.ranks)
    logs = launch.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "launcher.launch.starter", *launch.argv]
    environment = {**os.environ, **DEFAULTS, **own, **launch.env}
    with (logs / _LOG).open("wb") as log:  # its own traceback after that of a rank says nothing more
        child = subprocess.Popen(words, env=environment, stderr=log, process_group=0)
    code = _wait(child, meeting.heartbeats)
    return _ended(code, _ends(meeting.folder), launch.ranks)


def _wait(child: "subprocess.Popen[bytes]", heartbeats: Path) -> int:
    """The exit code of the child, which no exception leaves behind."""
    silence = StallReport()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK)
            silence.look(heartbeat.read(heartbeats))
    except BaseException:
        process_tree.end()
        raise


def _ends(folder: Path) -> dict[int, dict[str, Any]]:
    """What each rank said, by rank."""
    files = folder.glob("ended-*.json")
    return {int(file.stem.partition("-")[2]): json.loads(file.read_text(encoding="utf-8")) for file in files}


def _ended(code: int, ends: Mapping[int, Mapping[str, Any]], ranks: int) -> RanksEnded:
    """How the start ended: as its ranks say, where all of them do and the starter does not say otherwise."""
    problems: list[str] = next((end["problems"] for _, end in sorted(ends.items()) if end["problems"]), [])
    reason = Reason(max((end["reason"] for end in ends.values()), default=0))
    if problems:
        return RanksEnded(2, reason, problems=problems)
    if code == 0 and len(ends) == ranks:
        return RanksEnded(max(end["code"] for end in ends.values()), reason)
    found = [failure.Failure(rank, 1, end["error"], end["traceback"], 0) for rank, end in ends.items() if end["error"]]
    unsaid = [failure.Failure(rank, 1, _UNSAID, "", 0) for rank in range(ranks) if rank not in ends]
    causes = sorted(found, key=lambda failed: failed.echo)
    if causes and (not causes[0].echo or not unsaid):
        return RanksEnded(1, reason, failed=causes[0])
    return RanksEnded(1, reason, failed=unsaid[0])


def _become(words: list[str]) -> None:
    """Run a starter's module in this process, bound to the life of the launcher; signals are for the ranks. Handlers,
    other than ignoring, are not inherited by what it starts."""
    parent_death.signal_at_its_death(signal.SIGKILL)
    if os.getppid() != int(os.environ[LAUNCHER]):
        os._exit(1)
    for number in (*SIGNALS, PARENT_DIED):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    import runpy

    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _become(sys.argv[1:])
