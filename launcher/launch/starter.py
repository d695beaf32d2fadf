"""Ranks that torchrun or accelerate start as a child of the launcher, with the guarantees of the launcher's own agent.

The child and its ranks are a separate process group. So the terminal signals only the launcher, which stops the ranks
by the stop file. A rank records in a file how it ended, because a starter distinguishes only success and failure. When
the launcher dies, the kernel kills the starter, and its ranks save and leave. The rendezvous is a file, so that no port
is opened except on the loopback.
"""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from launcher.config import env_vars, paths
from launcher.distributed import failure, hang_log, hangs, heartbeat, rank_end
from launcher.distributed.descendants import kill_descendants
from launcher.distributed.exit_codes import FAILED
from launcher.distributed.failure import Failure, RankLogs
from launcher.distributed.hangs import Hang
from launcher.distributed.launch_env import LauncherInfo
from launcher.distributed.rank_end import RankEnd
from launcher.distributed.signals import PARENT_DIED, SIGNALS, StopReason, signal_on_parent_death
from launcher.distributed.watchdog import Watchdog
from launcher.launch import Launch, RanksEnded, RendezvousSpec

_LOG = "starter.log"
_NO_REPORT = f"it was killed, or left, before it could say why (logs/{_LOG} may know)"
_POLL_SECONDS = 0.2
_SECONDS_TO_FOLLOW = 4.0
"""Seconds for the other ranks to end after one had a user error; then all are killed.

They are fewer than the seconds for which a rank that lost another waits (launcher.worker). So no starter starts the
ranks again.
"""

_log = logging.getLogger(__name__)


def run(launch: Launch, spec: RendezvousSpec) -> RanksEnded:
    """Start the command, and wait for it and its ranks. Returns how the ranks ended. Raises ForcedStop."""
    own = {
        **LauncherInfo(spec.folder, spec.launcher, launch.timeout, launch.device).variables(),
        "OMP_NUM_THREADS": str(launch.threads), "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT",
        "PET_RDZV_ENDPOINT": str(spec.folder / "rendezvous"),
    }  # fmt: skip
    heartbeat.create(spec.heartbeats, launch.ranks)
    logs = launch.folder / paths.LOGS
    logs.mkdir(parents=True, exist_ok=True)
    before = RankLogs.now(logs)
    command = [sys.executable, "-m", "launcher.launch.starter", *launch.argv]
    environment = {**os.environ, **env_vars.RANK_VARIABLES, **own, **launch.env}
    env_vars.set_rank_defaults(environment)
    with (logs / _LOG).open("wb") as log:  # the starter's own traceback adds nothing to that of a rank
        child = subprocess.Popen(command, env=environment, stderr=log, process_group=0)
    watchdog = launch.watch(spec)
    code, hang = _wait(child, launch, spec, watchdog)
    if hang is not None and code != 0:
        return RanksEnded(FAILED, failed=failure.hung(hang))
    return _combine(code, rank_end.read(spec.folder), launch.ranks, before)


def _wait(
    child: "subprocess.Popen[bytes]", launch: Launch, spec: RendezvousSpec, watchdog: Watchdog
) -> tuple[int, Hang | None]:
    """Return the exit code of the child, and the last hang that ended ranks. After a user error or an exception, the
    child and its ranks are killed first."""
    refused_at, hang = math.inf, None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return child.wait(_POLL_SECONDS), hang
            if states := watchdog.check():
                hang = _end_hung(hangs.explain(states), launch, spec, watchdog)
            elif hang is not None and heartbeat.read(spec.heartbeats):
                hang = None  # its starter has started the ranks again
            if refused_at == math.inf and rank_end.problems(rank_end.read(spec.folder)):
                refused_at = time.monotonic()
            if time.monotonic() - refused_at > _SECONDS_TO_FOLLOW:
                kill_descendants()
    except BaseException:
        kill_descendants()
        raise


def _end_hung(hang: Hang, launch: Launch, spec: RendezvousSpec, watchdog: Watchdog) -> Hang | None:
    """Record a hang, and kill the ranks unless it is only reported. Their starter starts them again, or fails. Returns
    the hang if it ended ranks."""
    action = launch.watchdog.action
    hang_log.record(launch.folder, hang, action)
    watchdog.report_again_later()
    if action == "report":
        return None
    if action == "restart":
        if launch.max_restarts:
            _log.warning("%s; the ranks are ended, so that they are started again", hang.sentence)
        for beat in heartbeat.read(spec.heartbeats):
            with suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGKILL)
        heartbeat.create(spec.heartbeats, launch.ranks)
    else:
        kill_descendants()
    return hang


def _combine(code: int, ends: Mapping[int, RankEnd], ranks: int, logs: RankLogs) -> RanksEnded:
    """Return how the ranks ended, from the reports of all ranks. Missing reports, or a failure of the starter, are
    failures."""
    if (refused := RanksEnded.refused(ends)) is not None:
        return refused
    reason = StopReason(max((end["reason"] for end in ends.values()), default=0))
    if code == 0 and len(ends) == ranks:
        return RanksEnded(max(end["code"] for end in ends.values()), reason)
    failures = [Failure(rank, 1, end["error"], end["traceback"], 0) for rank, end in ends.items() if end["error"]]
    missing = [rank for rank in range(ranks) if rank not in ends]
    silent = [Failure(rank, 1, logs.cause(rank) or _NO_REPORT, "", 0) for rank in missing]
    causes = sorted(failures, key=lambda failed: failed.echo)
    if causes and (not causes[0].echo or not silent):
        return RanksEnded(FAILED, reason, failed=causes[0])
    return RanksEnded(FAILED, reason, failed=silent[0])


def _become(argv: list[str]) -> None:
    """Run a starter's module in this process. The process dies with the launcher, and leaves signals to the ranks.

    Processes that the starter starts inherit no handler, but would inherit that a signal is ignored.
    """
    signal_on_parent_death(signal.SIGKILL)
    if os.getppid() != int(os.environ[env_vars.LAUNCHER_PID]):
        os._exit(FAILED)
    for number in (*SIGNALS, PARENT_DIED):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    import runpy

    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _become(sys.argv[1:])
