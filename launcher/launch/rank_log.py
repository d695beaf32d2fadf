"""The log of each rank: RUN/logs/rankN.log."""

import os
from pathlib import Path


def redirect(folder: Path, rank: int) -> None:
    """Send what this process prints to its rank's log in a run folder; rank 0 keeps standard output, where its console
    sink draws."""
    folder.joinpath("logs").mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "logs" / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    if rank > 0:
        os.dup2(file, 1)
    os.close(file)
