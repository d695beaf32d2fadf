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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.config.atomic_files import write
from launcher.config.errors import UserError, first_line
from launcher.distributed import hostlist, node_rendezvous, output_streams, private_tmp, signals
from launcher.distributed.node_rendezvous import Node
from launcher.distributed.shutdown import Stop
from launcher.distributed.signals import ForcedStop, Reason
from launcher.launch import Launch, device_check, elastic_agent, execute, job_outcome, launch_spec
from launcher.launch.agent_types import RanksEnded, RendezvousSpec
from launcher.launch.job_outcome import DONE, UNFIT, JobOutcome
from launcher.plan.plan import Plan
from launcher.prepare import run_setup
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

_AT_ONCE = "stopped at once: the ranks were ended without a checkpoint"


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    signals.listen(even_ignored=[signal.SIGUSR1])  # which the batch script ignores until this process can take it
    try:
        private_tmp.enter()
    except UserError as error:
        print(error, file=sys.stderr)
        return UNFIT
    with (
        tempfile.TemporaryDirectory() as own,
        elastic_agent.stop_on_signal(Path(own) / "stop", forces=options.lifeline),  # Slurm says it more than once
    ):
        if options.lifeline:
            threading.Thread(target=_lifeline, name="lifeline", daemon=True).start()
        try:
            node = place(options, os.environ)
        except UserError as error:
            print(error, file=sys.stderr)
            return job_outcome.WRONG
        folder = RunDir(Path(options.run).absolute())
        if not folder.plan.is_file():
            what = f"{folder.path} is not there: a run folder is on a disk that all nodes share"
            print(f"{node.name}: {what}", file=sys.stderr)
            return UNFIT
        try:
            return _attend(Start.of(folder, node, os.environ), Path(own), options.batch)
        except UserError as error:
            print(error, file=sys.stderr)
            return job_outcome.WRONG
        except ForcedStop:  # before its ranks were there
            if node.index == 0:
                print(_AT_ONCE, file=sys.stderr, flush=True)
            return job_outcome.FAILED


def place(options: argparse.Namespace, environment: Mapping[str, str]) -> Node:
    """Which node this is, and of which: as told, else by Slurm's step. Raises UserError."""
    if options.hosts:
        return Node(options.node, tuple(options.hosts.split(",")))
    try:
        listed = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
        return Node(int(environment["SLURM_NODEID"]), tuple(hostlist.expand(listed)))
    except KeyError as missing:
        what = f"{missing.args[0]} is not set: this is no task of a Slurm step (srun), and no --hosts is given"
        raise UserError(what) from None
    except ValueError as error:
        raise UserError(f"the nodes of this Slurm step cannot be read: {error}") from None


@dataclass(frozen=True)
class Start:
    """One start of a job, on one of its nodes. `before`: the step of the checkpoint that it begins with."""

    folder: RunDir
    node: Node
    job: str
    number: int
    before: int

    @classmethod
    def of(cls, folder: RunDir, node: Node, environment: Mapping[str, str]) -> "Start":
        """Raises UserError where nothing tells one start from another."""
        job = environment.get("LAUNCHER_JOB") or environment.get("SLURM_JOB_ID")
        if not job:
            what = "a name for this start, the same on all hosts and of no start before"
            raise UserError(f"LAUNCHER_JOB is not set: {what} (Slurm and launcher run give one)")
        number = environment.get("LAUNCHER_START") or environment.get("SLURM_RESTART_COUNT") or 0
        return cls(folder, node, job, int(number), _step(folder))

    @property
    def together(self) -> Path:
        """The folder in which the nodes of this start meet."""
        return self.folder.jobs / f"{self.job}-{self.number}"

    def tell(self, event: str, **what: Any) -> None:
        """A line for the run's story."""
        job_log.append(self.folder, {"event": event, "job": self.job, "start": self.number, **what})


def _attend(start: Start, own: Path, batch: bool) -> int:
    """Meet, run, conclude. `own`: a folder of this node; `batch`: the script has the last word."""
    run = run_setup.load(start.folder.path)
    launch = replace(launch_spec.train(run.plan, run.cluster), folder=start.folder.path)
    os.environ.update(launch.env, LAUNCHER_JOB=start.job, LAUNCHER_START=str(start.number))
    elastic_agent.warm_up(launch_spec.imports(run.recipe))
    _log(start)
    try:
        unfit = device_check.unfit(run.plan.device, run.plan.devices_per_node)
        where = node_rendezvous.meet(start.together, start.node, run.plan.least_nodes, own / "stop", unfit)
    except node_rendezvous.UnhealthyNodes as error:
        return _leave(start, job_outcome.unfit(start.node.hosts, error.why), batch)
    except node_rendezvous.NodeStopped:
        return _leave(start, job_outcome.left(Stop(own / "stop").requested()), batch)
    except node_rendezvous.NodeNotNeeded:
        return DONE
    except OSError as error:
        print(f"{start.node.name}: {start.together} cannot be written to: {error.strerror}", file=sys.stderr)
        return UNFIT
    return _train(start, launch, run.plan, where, own, batch)


def _train(start: Start, launch: Launch, plan: Plan, where: node_rendezvous.Place, own: Path, batch: bool) -> int:
    """From where the nodes have met to the code they leave with: the first of them concludes it from all their ends."""
    node = start.node
    there = tuple(host for host in node.hosts if host not in where.left)
    if node.index == 0:
        _began(start, where, there, plan)
    nodes, reserve = (plan.least_nodes, plan.nodes), max(0, len(there) - plan.nodes)
    launch = replace(launch, max_restarts=plan.max_restarts + len(there) - plan.least_nodes)  # one for each to be lost
    at = RendezvousSpec(own, nodes, node.index, where.host, where.port, node.name, start.together, reserve)
    ended = _run(launch, at, start.folder)
    node_rendezvous.end(start.together, node, ended)
    if node.index > 0:
        return node_rendezvous.concluded(start.together, where, UNFIT)
    ends = node_rendezvous.ends(start.together, node, there, ended["failed"] is not None)
    late = Stop.of().requested() is Reason.MAKE_WAY
    how = job_outcome.of(there, ends, plan.least_nodes, start.before, _step(start.folder), late)
    return _leave(start, how, batch)


def _run(launch: Launch, at: RendezvousSpec, folder: RunDir) -> dict[str, Any]:
    """This node's ranks, from start to end. Returns how they ended, as launcher.launch.job_outcome takes it."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous import RendezvousError

    failed: dict[str, Any] | None = None
    ended, unnamed = RanksEnded(1), {"rank": -1, "code": 1, "time": int(time.time())}
    try:
        ended = elastic_agent.run(launch, at)
    except (RendezvousError, DistError) as error:
        text = f"{at.name} lost the other nodes ({type(error).__name__}: {first_line(error)})"
        failed = {**unnamed, "echo": True, "text": text}
    except ForcedStop:
        if folder.whole():
            ended = RanksEnded(job_outcome.STOPPED, Reason.STOP)
        else:
            failed = {**unnamed, "echo": False, "text": _AT_ONCE}
    if ended.failed is not None:
        text = execute.told(ended.failed, folder).replace(" failed", f" on {at.name} failed", 1)
        what = ended.failed
        failed = {"rank": what.rank, "code": what.code, "echo": what.echo, "time": what.time, "text": text}
    return {
        "code": ended.code, "reason": int(ended.reason), "problems": ended.problems, "failed": failed,
        "closed": ended.closed,
    }  # fmt: skip


def _began(start: Start, where: node_rendezvous.Place, nodes: Sequence[str], plan: Plan) -> None:
    """The first node says which nodes take part."""
    for host, why in where.left.items():
        print(f"{host} does not take part: {why}", file=sys.stderr, flush=True)
    known = os.environ.get("SLURM_JOB_ID", "")
    ranks = plan.devices_per_node * min(len(nodes), plan.nodes)  # the others are held in reserve
    start.tell("started", slurm=known, nodes=list(nodes), ranks=ranks, step=start.before)


def _leave(start: Start, how: JobOutcome, batch: bool) -> int:
    """The first node writes down the conclusion, for the other nodes, the batch script and whoever looks later."""
    if start.node.index > 0:
        return how.code
    start.tell("ended", code=how.code, why=how.why, excluded=list(how.excluded), step=_step(start.folder))
    if how.again:
        write(start.together / "again", "".join(f"{host}\n" for host in how.excluded))
    if how.text:
        write(start.together / "error", f"{how.text}\n")
    write(start.together / "code", f"{how.code}\n")
    node_rendezvous.conclude(start.together, how.code)
    if how.text and not batch:
        time.sleep(0.5)  # what other nodes still print comes before it
        print(how.text, file=sys.stderr, flush=True)
    return how.code


def _step(folder: RunDir) -> int:
    """The step of the newest whole checkpoint."""
    whole = folder.whole()
    return whole[-1].step if whole else 0


def _log(start: Start) -> None:
    """What the elastic agent of this node does goes to a log of its own."""
    start.folder.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(start.folder.logs / f"node-{start.node.name}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for logger in elastic_agent.LOGGERS:
        logging.getLogger(logger).addHandler(handler)
        logging.getLogger(logger).propagate = False


def _lifeline() -> None:
    """Whoever started this agent speaks to it through its standard input; when that ends, they are gone."""
    for line in sys.stdin:
        if line.strip() in ("USR1", "TERM"):
            os.kill(os.getpid(), getattr(signal, f"SIG{line.strip()}"))
        elif line.strip() == "NOW":
            signals.force()
    os.kill(os.getpid(), signal.SIGHUP)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launcher.launch.node", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="the run folder, as launcher submit wrote it")
    parser.add_argument("--node", type=int, default=0, help="the place of this node among the hosts, from 0")
    parser.add_argument(
        "--hosts", default="", help="all hosts, with commas between them (default: those of the Slurm step)"
    )
    parser.add_argument("--batch", action="store_true", help="leave the last word to the batch script")
    parser.add_argument("--lifeline", action="store_true", help="leave when standard input ends")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    output_streams.set_up(lasting=True)
    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        signals.ignore()
