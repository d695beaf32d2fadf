"""What runs on a rank that the launcher started: its log, its place, then the worker."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from launcher.config.errors import UserError
from launcher.launch import Launch, failure


def entry(launch: Launch, meeting: str) -> dict[str, Any]:
    """Called by the elastic agent on each rank. `meeting`: a folder of this start, with the ranks' store and the stop
    file. Returns what the launcher needs to know: `code`, and `problems` or what was `told`."""
    started_by = os.getppid()
    told = _live(launch, Path(meeting))
    if os.getppid() != started_by:  # the launcher is dead: nobody would ever read what is returned
        os._exit(told["code"])
    return told


def _live(launch: Launch, meeting: Path) -> dict[str, Any]:
    os.environ.update(launch.env)
    import torch.distributed as dist

    from launcher import worker
    from launcher.run import process
    from launcher.run.stop import Stop

    stop = Stop(meeting / "stop")
    stop.listen()
    at = process.place()
    _log(launch.folder, at.rank)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    connected = None
    try:
        store = dist.FileStore(str(meeting / f"store-{attempt}"), at.world)
        connected = process.connect(at, launch.device, store)
        if launch.job == "evaluate":
            return {"code": 0, "told": worker.evaluate(launch.folder, connected, launch.checkpoint)}
        if launch.job == "measure":
            return {"code": 0, "told": worker.measure(launch.folder, connected, stop, launch.steps)}
        return {"code": worker.train(launch.folder, connected, stop)}
    except UserError as error:
        return {"code": 2, "problems": [str(problem) for problem in error.problems]}
    except Exception as error:
        if failure.lost_a_peer(str(error)):
            _let_the_cause_be_seen(stop)
        raise
    finally:
        if connected is not None and sys.exc_info()[0] is None:
            connected.close()


def _let_the_cause_be_seen(stop: Any) -> None:
    """The agent names the first rank that it finds dead: one that only lost a peer waits until it is told to end."""
    end = time.monotonic() + 5
    while time.monotonic() < end and not stop.told:
        time.sleep(0.02)


def _log(folder: Path, rank: int) -> None:
    """What a rank prints goes to its log; rank 0 keeps standard output, where its console sink draws."""
    folder.joinpath("logs").mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "logs" / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    if rank > 0:
        os.dup2(file, 1)
    os.close(file)
