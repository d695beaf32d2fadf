"""The launcher on one node of a job: an elastic agent among those of the other nodes.

`python -m launcher.launch.node RUN` in a Slurm step of one task a node, or `... --node I --hosts A,B --lifeline` by
whoever starts it on each host. It meets the others, starts this node's ranks, and leaves with the code that the first
node concludes from how all of them ended. A signal makes all ranks of all nodes leave at a step's boundary.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.config.errors import UserError
from launcher.config.files import write
from launcher.launch import Launch, conclusion, elastic, execute, hosts, meeting, render
from launcher.launch.conclusion import DONE, STOPPED, UNFIT, Conclusion
from launcher.launch.meeting import Node
from launcher.plan import jobs
from launcher.plan.folder import RunFolder
from launcher.prepare import ready


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="launcher-") as own, elastic.stop_on_signal(Path(own) / "stop", False):
        if options.lifeline:
            threading.Thread(target=_lifeline, name="lifeline", daemon=True).start()
        try:
            node = place(options, os.environ)
        except UserError as error:
            print(error, file=sys.stderr)
            return conclusion.WRONG
        folder = RunFolder(Path(options.run).absolute())
        if not folder.plan.is_file():
            what = f"{folder.path} is not there: a run folder is on a disk that all nodes share"
            print(f"{node.name}: {what}", file=sys.stderr)
            return UNFIT
        return _attend(folder, node, Path(own))


def place(options: argparse.Namespace, environment: Mapping[str, str]) -> Node:
    """Which node this is, and of which: as told, else by Slurm's step. Raises UserError."""
    if options.hosts:
        return Node(options.node, tuple(options.hosts.split(",")))
    try:
        listed = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        return Node(int(environment["SLURM_NODEID"]), tuple(hosts.expand(listed)))
    except KeyError as missing:
        what = f"{missing.args[0]} is not set: this is no task of a Slurm step (srun), and no --hosts is given"
        raise UserError(what) from None
    except ValueError as error:
        raise UserError(f"the nodes of this Slurm step cannot be read: {error}") from None


def start(environment: Mapping[str, str]) -> tuple[str, int]:
    """The job, and which of its starts this is."""
    job = environment.get("LAUNCHER_JOB") or environment.get("SLURM_JOB_ID") or "by-hand"
    return job, int(environment.get("LAUNCHER_START") or environment.get("SLURM_RESTART_COUNT") or 0)


def _attend(folder: RunFolder, node: Node, own: Path) -> int:
    """Meet, run, conclude."""
    job, number = start(os.environ)
    os.environ.update(LAUNCHER_JOB=job, LAUNCHER_START=str(number))
    run = ready.read(folder.path)
    launch = replace(render.train(run.plan, run.cluster), folder=folder.path)
    os.environ.update(launch.env)
    elastic.warm_up()
    together, before = folder.jobs / f"{job}-{number}", _step(folder)
    _log(folder, node.name)
    try:
        where = meeting.meet(together, node, run.plan.least_nodes, own / "stop")
    except meeting.Unfit as error:
        return _leave(folder, node, together, conclusion.unfit(node.hosts, error.why), before)
    except meeting.NotNeeded:
        return DONE
    except meeting.Left:
        return _leave(folder, node, together, Conclusion(STOPPED, "told"), before)
    except OSError as error:
        print(f"{node.name}: {together} cannot be written to: {error.strerror}", file=sys.stderr)
        return UNFIT
    if node.index == 0:
        _began(folder, node, where, launch, before)
    at = elastic.Meeting(own, (run.plan.least_nodes, run.plan.nodes), node.index, where.host, where.port, node.name)
    meeting.end(together, node, _run(launch, at, folder))
    there = [host for host in node.hosts if host not in where.left]
    if node.index > 0:
        return meeting.concluded(together, where, UNFIT)
    ends = meeting.ends(together, tuple(there))
    how = conclusion.of(there, ends, run.plan.least_nodes, before, _step(folder))
    return _leave(folder, node, together, how, before)


def _run(launch: Launch, at: elastic.Meeting, folder: RunFolder) -> dict[str, Any]:
    """This node's ranks, from start to end. Returns how they ended, as launcher.launch.conclusion takes it."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous import RendezvousError

    failed: dict[str, Any] | None = None
    try:
        ended = elastic.run(launch, at)
    except (RendezvousError, DistError) as error:
        text = f"{at.name} lost the other nodes ({type(error).__name__}: {str(error).splitlines()[0]})"
        failed = {"rank": -1, "code": 1, "echo": True, "time": int(time.time()), "text": text}
        ended = elastic.Ended(1)
    if ended.failed is not None:
        text = execute.told(ended.failed, folder).replace(" failed", f" on {at.name} failed", 1)
        what = ended.failed
        failed = {"rank": what.rank, "code": what.code, "echo": what.echo, "time": what.time, "text": text}
    return {
        "code": ended.code, "reason": int(ended.reason), "problems": ended.problems, "failed": failed,
        "closed": ended.closed,
    }  # fmt: skip


def _began(folder: RunFolder, node: Node, where: meeting.Place, launch: Launch, step: int) -> None:
    """The first node tells the job's story."""
    job, number = start(os.environ)
    for host, why in where.left.items():
        print(f"{host} does not take part: {why}", file=sys.stderr, flush=True)
    nodes = [host for host in node.hosts if host not in where.left]
    told = {"event": "started", "job": job, "start": number, "slurm": os.environ.get("SLURM_JOB_ID", "")}
    jobs.append(folder, {**told, "nodes": nodes, "ranks": launch.ranks * len(nodes), "step": step})


def _leave(folder: RunFolder, node: Node, together: Path, how: Conclusion, before: int) -> int:
    """The first node writes down the conclusion, for the other nodes, the batch script and whoever looks later."""
    if node.index > 0:
        return how.code
    job, number = start(os.environ)
    told = {"event": "ended", "job": job, "start": number, "code": how.code, "why": how.why}
    step = _step(folder)
    jobs.append(folder, {**told, "excluded": list(how.excluded), "step": step, "from": before})
    if how.again:
        write(together / "again", "".join(f"{host}\n" for host in how.excluded))
    write(
        together / "code", f"{how.code}\n"
    )  # srun knows the largest code of all nodes, those that are lost among them
    meeting.conclude(together, how.code)
    if how.text:
        time.sleep(0.5)  # what other nodes still print comes before it
        print(how.text, file=sys.stderr, flush=True)
    return how.code


def _step(folder: RunFolder) -> int:
    """The step of the newest whole checkpoint."""
    whole = folder.whole()
    return whole[-1].step if whole else 0


def _log(folder: RunFolder, name: str) -> None:
    """What the elastic agent of this node does goes to a log of its own."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder.logs / f"node-{name}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for logger in elastic.LOGGERS:
        logging.getLogger(logger).addHandler(handler)
        logging.getLogger(logger).propagate = False


def _lifeline() -> None:
    """Whoever started this agent speaks to it through its standard input; when that ends, they are gone."""
    for line in sys.stdin:
        if line.strip() in ("USR1", "TERM"):
            os.kill(os.getpid(), getattr(signal, f"SIG{line.strip()}"))
    os.kill(os.getpid(), signal.SIGHUP)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launcher.launch.node", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="the run folder, as launcher submit wrote it")
    parser.add_argument("--node", type=int, default=0, help="the place of this node among the hosts, from 0")
    parser.add_argument(
        "--hosts", default="", help="all hosts, with commas between them (default: those of the Slurm step)"
    )
    parser.add_argument("--lifeline", action="store_true", help="leave when standard input ends")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
