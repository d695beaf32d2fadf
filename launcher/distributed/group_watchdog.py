"""The watchdog of ranks that no agent of the launcher watches: each watches itself, on a thread.

A rank that makes no progress posts its state to the store of the group. As soon as all have, or the missing ranks are
silent, the first rank that has posted says who hangs, and ends that rank. So its starter (torchrun, srun) acts. A rank
whose process is stopped, or whose native code holds the interpreter's lock, is silent: its thread does not run either.
"""

import json
import logging
import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch.distributed as dist

from launcher.config import paths
from launcher.config.watchdog import Watchdog as Config
from launcher.distributed import failure_notice, hang_log, hangs, heartbeat, launch_env, stacks, watchdog
from launcher.distributed.hangs import Hang, RankState
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.watchdog import Watchdog

_POLL_SECONDS = 1.0
_SILENT_SECONDS = 5.0
"""Seconds without a sign of life after which a rank is silent."""

_log = logging.getLogger(__name__)


def start(group: ProcessGroup, folder: Path, config: Config) -> Heartbeat:
    """Watch this rank on a thread, and return its beats. `folder`: of the run."""
    logs = folder / paths.LOGS
    if group.store is None or config.least is None:
        return Heartbeat()
    stacks.register(logs, group.rank)
    file = Path(tempfile.mkdtemp()) / heartbeat.HEARTBEATS
    heartbeat.create(file, 1)
    beats = Heartbeat(file, 0, group.rank)
    own = Watchdog(file, logs, config.least, group.timeout.total_seconds())
    watch = _RankWatch(group.store.clone(), group, folder, config, own, file)
    threading.Thread(target=watch.run, name="watchdog", daemon=True).start()
    return beats


@dataclass(frozen=True)
class _Sign:
    """Sign of life of a rank. `turn`: count of signs. `ends`: seconds since the epoch until which the rank may stay in
    its stage. `beats`: file of its beats, for ranks on the same host."""

    turn: int
    ends: float
    step: int
    left: int
    stage: int
    pid: int
    host: str
    beats: str

    @property
    def is_here(self) -> bool:
        """Whether the rank is on this host."""
        return self.host == launch_env.host_name()

    def now(self, own: Watchdog) -> "_Sign":
        """Return the sign as of now if the rank is on this host: a rank goes on between signs. `own`: knows limits."""
        if not self.is_here:
            return self
        try:
            beat = heartbeat.read(Path(self.beats))[0]
        except (OSError, ValueError, IndexError):  # the rank has ended
            return self
        at = beat.position
        ends = time.time() + own.limit(beat) - (time.monotonic() - at.time)
        return replace(self, ends=ends, step=at.step, left=at.left, stage=int(at.stage))


class _RankWatch:
    """One rank's part of the watch. `store`: a connection of its own, because the group may block the other one."""

    def __init__(
        self, store: dist.Store, group: ProcessGroup, folder: Path, config: Config, own: Watchdog, beats: Path
    ):
        self._store, self._group, self._folder, self._config = store, group, folder, config
        self._own, self._beats = own, beats
        self._posted = False
        self._signs = dict[int, tuple[bytes, float]]()

    def run(self) -> None:
        """Check this rank and the others until the process ends, or rank 0, which serves the store."""
        host, turn = launch_env.host_name(), 0
        with suppress(dist.DistError):
            while True:
                time.sleep(_POLL_SECONDS)
                beat, turn = heartbeat.read(self._beats)[0], turn + 1
                at, ends = beat.position, time.time() + self._own.limit(beat)
                sign = _Sign(turn, ends, at.step, at.left, int(at.stage), os.getpid(), host, str(self._beats))
                self._store.set(_sign_key(self._group.rank), json.dumps(asdict(sign)))
                if (hang := self._found()) is not None:
                    self._act(hang)

    def _found(self) -> Hang | None:
        """Return the hang if this rank is the first one that can say so; None: there is none."""
        rank, states = self._group.rank, self._own.check()
        if not states:
            if self._posted:
                self._store.delete_key(_state_key(rank))
                self._posted = False
            return None
        if not self._posted:
            self._store.set(_state_key(rank), json.dumps(states[0].as_json()))
            self._posted = True
        posted = [other for other in range(self._group.world) if self._store.check([_state_key(other)])]
        if rank != min(posted, default=rank):
            return None
        silent = [other for other in range(self._group.world) if other not in posted]
        signs = [self._is_silent(other, states[0].step) for other in silent]  # each is looked at
        if not all(signs):
            return None
        found = [RankState.of_json(json.loads(self._store.get(_state_key(other)))) for other in posted]
        return hangs.explain([*found, *(self._silent_state(other, states[0].seconds) for other in silent)])

    def _is_silent(self, rank: int, step: int) -> bool:
        """Return whether a rank has given no sign of life for as long as it may stay in its stage. Its first sign is
        waited for.

        `step`: of this rank, which the other one has reached too: a sign of an earlier step shows no stage any more.
        """
        if not self._store.check([_sign_key(rank)]):
            return False
        sign, now = self._store.get(_sign_key(rank)), time.monotonic()
        before, since = self._signs.get(rank, (b"", now))
        self._signs[rank] = (sign, since if sign == before else now)
        last = self._sign(rank).now(self._own)
        return sign == before and now - since > _SILENT_SECONDS and (time.time() > last.ends or last.step < step)

    def _sign(self, rank: int) -> _Sign:
        return _Sign(**json.loads(self._store.get(_sign_key(rank))))

    def _silent_state(self, rank: int, seconds: float) -> RankState:
        """Return the state of a silent rank, with its stack if it is on this host."""
        sign = self._sign(rank).now(self._own)
        state = RankState(rank, sign.step, sign.left, Stage(sign.stage), seconds)
        if not sign.is_here:
            return replace(state, host=sign.host)
        pid, file = sign.pid, stacks.path(self._folder / paths.LOGS, rank)
        process = watchdog.process_status(pid)
        state = replace(state, process=process)
        revive = process == hangs.STOPPED and self._config.action != "report"
        if process == hangs.STOPPED and not revive:
            return state
        stack = stacks.request(pid, file, revive)
        return state if stack is None else watchdog.with_stack(state, stack, pid, file)

    def _act(self, hang: Hang) -> None:
        """Record a hang, and end its rank unless it is only reported. The others follow by the notice of its end."""
        hang_log.record(self._folder, hang, self._config.action)
        if self._config.action == "report":
            self._own.report_again_later()
            return
        _log.error("%s (the stacks of all ranks: %s/%s*.txt)", hang.sentence, self._folder / paths.LOGS, paths.STACKS)
        failure_notice.post_for(self._store, hang.rank)
        sign = self._sign(hang.rank)
        if sign.is_here:
            with suppress(ProcessLookupError):
                os.kill(sign.pid, signal.SIGKILL)
        threading.Event().wait()  # the notice ends this process


def _sign_key(rank: int) -> str:
    return f"watchdog/sign/{rank}"


def _state_key(rank: int) -> str:
    return f"watchdog/state/{rank}"
