"""The log of each rank: RUN/logs/rankN.log."""

import errno
import os
from pathlib import Path

from launcher.distributed import output_streams


def redirect(folder: Path, rank: int) -> None:
    """Send what this process prints to its rank's log in a run folder. Rank 0 keeps standard output, where its console
    sink draws, and the log gets a copy."""
    file = _opened(folder, rank)
    os.dup2(file, 2)
    if rank > 0:
        os.dup2(file, 1)
        os.close(file)
    else:
        output_streams.copy_to(file, 1)


def copy(folder: Path, rank: int) -> None:
    """Have the log of a rank hold what this process prints too: a starter shows it where it likes."""
    output_streams.copy_to(_opened(folder, rank), 1, 2)


def _opened(folder: Path, rank: int) -> int:
    """A descriptor of the log; of nowhere where a full disk has no room for it, which ends no training."""
    try:
        folder.joinpath("logs").mkdir(parents=True, exist_ok=True)
        return os.open(folder / "logs" / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return os.open(os.devnull, os.O_WRONLY)
