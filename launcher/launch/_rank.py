"""What runs on a rank that the launcher started: its log, its place, then the worker."""

import os
import sys
from pathlib import Path
from typing import Any

from launcher.config.errors import UserError
from launcher.launch import Launch


def entry(launch: Launch, meeting: str) -> dict[str, Any]:
    """Called by the elastic agent on each rank. `meeting`: a folder of this start, with the ranks' store and the stop
    file. Returns what the launcher needs to know: `code`, and `problems` or `metrics`."""
    from launcher import worker
    from launcher.run import process
    from launcher.run.stop import Stop

    stop = Stop(Path(meeting) / "stop")
    stop.listen()
    at = process.place()
    _log(launch.folder, at.rank)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    connected = None
    try:
        connected = process.connect(at, launch.device, store=str(Path(meeting) / f"store-{attempt}"))
        if launch.job == "evaluate":
            return {"code": 0, "metrics": worker.evaluate(launch.folder, connected, launch.checkpoint)}
        return {"code": worker.train(launch.folder, connected, stop)}
    except UserError as error:
        return {"code": 2, "problems": [str(problem) for problem in error.problems]}
    finally:
        if connected is not None and sys.exc_info()[0] is None:
            connected.close()


def _log(folder: Path, rank: int) -> None:
    """What a rank prints goes to its log; rank 0 keeps standard output, where its console sink draws."""
    folder.joinpath("logs").mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "logs" / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    if rank > 0:
        os.dup2(file, 1)
    os.close(file)
