"""Being told to stop: by a signal to this rank, or by a file that the launcher makes. Heeded at a step's boundary."""

import signal
from pathlib import Path

from launcher.run import parent

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Stop:
    """`file`: asked for once a step, since a launcher cannot know the moment at which a rank can take a signal."""

    def __init__(self, file: Path | None = None):
        self._file, self.told = file, False

    def listen(self) -> None:
        """Take the signals; also the one that Linux sends when the process that started this one dies."""
        for number in SIGNALS:
            signal.signal(number, self._note)
        if self._file is not None:
            parent.signal_at_its_death(signal.SIGTERM)

    def requested(self) -> bool:
        return self.told or (self._file is not None and self._file.exists())

    def _note(self, number: int, frame: object) -> None:
        self.told = True
