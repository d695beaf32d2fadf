"""What runs on a rank that the launcher started: its log, its place, then the worker."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from launcher.config.errors import UserError
from launcher.launch import Launch, failure
from launcher.launch.elastic import Meeting


def entry(launch: Launch, meeting: Meeting) -> dict[str, Any]:
    """Called by the elastic agent on each rank. Returns what the launcher needs to know: `code`, the `reason` for
    leaving early, and `problems` or what was `told`."""
    started_by = os.getppid()
    told = _live(launch, meeting)
    if os.getppid() != started_by:  # the launcher is dead: nobody would ever read what is returned
        os._exit(told["code"])
    return told


def _live(launch: Launch, meeting: Meeting) -> dict[str, Any]:
    os.environ.update(launch.env)
    from launcher import worker
    from launcher.run import process
    from launcher.run.checkpoint import Replaced
    from launcher.run.stop import Reason, Stop

    stop = Stop.of(meeting.folder / "stop")
    stop.listen()
    at = process.place()
    _log(launch.folder, at.rank)
    connected = None
    try:
        if launch.job == "train":
            process.require(launch.device)
        store = _store(meeting, at.world)
        connected = process.connect(at, launch.device, store, timedelta(minutes=launch.timeout))
        if meeting.port:
            process.exchange(connected, _hosts(store, at, meeting.name))
        if launch.job == "evaluate":
            return {"code": 0, "told": worker.evaluate(launch.folder, connected, launch.checkpoint)}
        if launch.job == "measure":
            return {"code": 0, "told": worker.measure(launch.folder, connected, stop, launch.steps)}
        return {"code": worker.train(launch.folder, connected, stop), "reason": int(stop.heeded)}
    except UserError as error:
        return {"code": 2, "reason": int(stop.heeded), "problems": [str(problem) for problem in error.problems]}
    except Replaced as error:
        return {"code": 1, "reason": int(Reason.REPLACED), "problems": [str(error)]}
    except Exception as error:
        if failure.lost_a_peer(str(error)):
            _let_the_cause_be_seen(stop, meeting)
        raise
    finally:
        if connected is not None and sys.exc_info()[0] is None:
            connected.close()


def _store(meeting: Meeting, world: int) -> Any:
    """Where this attempt's ranks meet: a file of this machine, or what the first node serves. Each attempt has one of
    its own, without the addresses of ranks that are dead. Agents count attempts each for itself; what they agree on is
    the port that the first of them draws."""
    import torch.distributed as dist

    drawn = f"{os.environ['MASTER_PORT']}-{world}"
    if not meeting.port:
        return dist.FileStore(str(meeting.folder / f"store-{os.environ['TORCHELASTIC_RESTART_COUNT']}-{drawn}"), world)
    served = dist.TCPStore(meeting.host, meeting.port, is_master=False, timeout=timedelta(minutes=5))
    return dist.PrefixStore(f"ranks-{drawn}", served)


def _hosts(store: Any, at: Any, name: str) -> list[str]:
    """The host of each rank."""
    store.set(f"host-{at.rank}", name)
    return [store.get(f"host-{rank}").decode() for rank in range(at.world)]


def _let_the_cause_be_seen(stop: Any, meeting: Meeting) -> None:
    """The agent names the first rank that it finds dead: one that only lost a peer waits until it is told to end. Where
    there are other nodes the cause may well be there."""
    end = time.monotonic() + (1.5 if meeting.nodes[1] > 1 else 5)
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
