"""Being told to leave: by a signal to this rank, by a file that the launcher makes, or by the clock. Heeded at a step's
boundary, by all ranks at once.

USR1, the deadline, and the death of whoever started a rank ask it to make way: it saves, leaves, and comes back where
it can. TERM and INT ask it to stop: it saves, leaves, and stays away.
"""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from launcher.distributed import parent_death
from launcher.distributed.signals import PARENT_DIED, SIGNALS, STOPPED, Reason
from launcher.storage.lease import Lease


def tell(file: Path, reason: Reason) -> None:
    """Have the ranks of this machine leave: they look for the file at each step."""
    aside = file.with_name(f"{file.name}.partial")
    aside.write_text(reason.name)
    aside.replace(file)


class Stop:
    """`file`: asked for once a step, since a launcher cannot know the moment at which a rank can take a signal.
    `deadline`: in seconds since the epoch. `lease`: of the rank that writes, its right to. `trains`: all ranks are
    there, and will agree on when to leave."""

    def __init__(self, file: Path | None = None, deadline: float | None = None):
        self._file, self._deadline = file, deadline
        self.told = Reason.NONE
        self.heeded = Reason.NONE
        self.trains = False
        self.lease: Lease | None = None

    @classmethod
    def of(cls, file: Path | None = None, environment: Mapping[str, str] = os.environ) -> "Stop":
        """With the deadline that a job's script has told."""
        deadline = environment.get("LAUNCHER_DEADLINE", "")
        return cls(file, float(deadline) if deadline.isdigit() else None)

    def listen(self, starter: int | None = None) -> None:
        """Take the signals; also the one that Linux sends when the process that started this one dies. `starter`: the
        launcher's process, which may be dead by now."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._note)
        if starter is not None:
            signal.signal(PARENT_DIED, self._note)
            parent_death.signal_at_its_death(PARENT_DIED)
            if not psutil.pid_exists(starter):
                self._note(PARENT_DIED, None)

    def requested(self) -> Reason:
        """What this rank has been told by now."""
        late = self._deadline is not None and time.time() >= self._deadline
        lost = self.lease is not None and self.lease.lost
        return max(
            self.told,
            self._in_file(),
            Reason.MAKE_WAY if late else Reason.NONE,
            Reason.REPLACED if lost else Reason.NONE,
        )

    def heed(self, reason: Reason) -> None:
        """All ranks have agreed to leave."""
        self.heeded = reason

    def _in_file(self) -> Reason:
        if self._file is None:
            return Reason.NONE
        with suppress(OSError, KeyError):
            return Reason[self._file.read_text()]
        return Reason.NONE

    def _note(self, number: int, frame: object) -> None:
        if number == PARENT_DIED and not self.trains:  # the others may never come, and there is nothing to save
            os._exit(STOPPED)
        self.told = max(self.told, SIGNALS.get(signal.Signals(number), Reason.MAKE_WAY))
