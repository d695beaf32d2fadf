"""The launcher on one node of a job: an elastic agent among those of the other nodes.

`python -m launcher.launch.node RUN` in a Slurm step of one task a node, or `... --node I --hosts A,B --lifeline` by
whoever starts it on each host. It joins the others, starts this node's ranks, and leaves with the exit code that the
first node concludes from how all of them ended. A signal makes all ranks of all nodes leave at a step's boundary.
"""

import argparse
import json
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

from launcher.config import env_vars, paths
from launcher.config.atomic_files import write
from launcher.config.errors import UserError, first_line
from launcher.config.types import SchedulerConfig
from launcher.distributed import (
    garbage_collection,
    health_check,
    hostlist,
    logs,
    node_rendezvous,
    output_streams,
    private_tmp,
    run_ledger,
    signals,
)
from launcher.distributed.exit_codes import DONE, FAILED, INVALID_INPUT, NODE_FAILURE, STOPPED
from launcher.distributed.node_rendezvous import Node, NodeFailure, NodeOutcome, Rendezvous
from launcher.distributed.signals import ForcedStop, StopReason
from launcher.distributed.stop_requests import StopMonitor, StoppedBeforeTraining
from launcher.health import disks, hostnames
from launcher.launch import Launch, RanksEnded, RendezvousSpec, elastic_agent, execute, job_outcome, launch_spec
from launcher.launch.job_outcome import JobOutcome
from launcher.plan.plan import Plan
from launcher.prepare import run_setup
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

_FORCED = "stopped at once: the ranks were ended without a checkpoint"

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run this node's part of a start. Returns the exit code."""
    options = _options(arguments)
    signals.listen(even_ignored=[signal.SIGUSR1])  # the batch script ignored it until this process can handle it
    try:
        private_tmp.enter()
    except UserError as error:
        _log.error(error)
        return NODE_FAILURE
    with (
        tempfile.TemporaryDirectory() as own,
        elastic_agent.stop_on_signal(  # Slurm repeats its signals
            RendezvousSpec(Path(own)).stop_file, second_forces=options.lifeline
        ),
    ):
        if options.environment:
            os.environ.update(_sent_variables(sys.stdin.readline()))
        if options.lifeline:
            threading.Thread(target=_follow_lifeline, name="lifeline", daemon=True).start()
        try:
            node = this_node(options, os.environ)
            return _run(options, node, Path(own))
        except UserError as error:
            _log.error(error)
            return INVALID_INPUT


def _run(options: argparse.Namespace, node: Node, own: Path) -> int:
    """Run the start in the run folder, and return the exit code. `own`: a folder for only this node. Raises
    UserError."""
    folder = RunDir(Path(options.run).absolute())
    if not folder.plan.is_file():
        _log.error("%s: %s is not there: a run folder is on a disk that all nodes share", node.name, folder.path)
        return NODE_FAILURE
    try:
        return _join_and_train(Start.of(folder, node, os.environ), own, options.batch)
    except ForcedStop:  # before the ranks had started
        if node.index == 0:
            _log.error(_FORCED)
        return FAILED


def this_node(options: argparse.Namespace, environment: Mapping[str, str]) -> Node:
    """Return this node among its hosts, from the options or from the Slurm step. Raises UserError."""
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
    """One start of a job, on one of its nodes. `number`: counts the starts of the job. `before`: step of the checkpoint
    from which the start resumes."""

    run: RunDir
    node: Node
    job: str
    number: int
    before: int

    @classmethod
    def of(cls, run: RunDir, node: Node, environment: Mapping[str, str]) -> "Start":
        """Return the start that this process belongs to. Raises UserError if no variable distinguishes starts."""
        job = environment.get(env_vars.JOB) or environment.get("SLURM_JOB_ID")
        if not job:
            what = "a name for this start, the same on all hosts and of no start before"
            raise UserError(f"{env_vars.JOB} is not set: {what} (Slurm and launcher run give one)")
        number = environment.get(env_vars.START) or environment.get("SLURM_RESTART_COUNT") or 0
        return cls(run, node, job, int(number), _newest_step(run))

    @property
    def folder(self) -> Path:
        """Folder for the rendezvous of this start's nodes."""
        return self.run.start_folder(self.job, self.number)

    def record(self, event: str, **details: object) -> None:
        """Append an event to the run's job log."""
        job_log.append(self.run, {"event": event, "job": self.job, "start": self.number, **details})


def _join_and_train(start: Start, own: Path, batch: bool) -> int:
    """Join the other nodes, then train. Returns the exit code. `batch`: the batch script prints the last message."""
    run = run_setup.load(start.run.path)
    launch = replace(launch_spec.train(run.plan, run.cluster), folder=start.run.path)
    os.environ.update(launch.env)
    if missing := [name for name in run.cluster.env_from if name not in os.environ]:
        _log.warning("%s: env_from: %s not passed on by the scheduler", start.node.name, " and ".join(missing))
    os.environ.update({env_vars.JOB: start.job, env_vars.START: str(start.number)})
    elastic_agent.warm_up(launch_spec.imports(run.recipe))
    logs.set_up_node(start.run.logs, start.node.name)
    stop_file = RendezvousSpec(own).stop_file
    try:
        problem = _unhealthy(start, run.plan)
        found = node_rendezvous.join(start.folder, start.node, run.plan.least_nodes, stop_file.exists, problem)
    except node_rendezvous.UnhealthyNodes as error:
        return _leave(start, job_outcome.unhealthy(start.node.hosts, error.why), batch)
    except StoppedBeforeTraining:
        return _leave(start, job_outcome.stopped_early(StopMonitor(stop_file).requested()), batch)
    except node_rendezvous.NodeNotNeeded:
        return DONE
    except OSError as error:
        _log.error("%s: %s cannot be written to: %s", start.node.name, start.folder, error.strerror)
        return NODE_FAILURE
    return _train(start, launch, run, found, own, batch)


def _unhealthy(start: Start, plan: Plan) -> str | None:
    """Return what is wrong with this node before it joins the others; None: nothing that is known."""
    return (
        hostnames.start_problem(start.node.hosts, start.node.index)
        or disks.start_problem([start.run.path, Path(tempfile.gettempdir())])
        or health_check.device_problem(plan.device, plan.devices_per_node)
    )


def _train(start: Start, launch: Launch, run: run_setup.PreparedRun, found: Rendezvous, own: Path, batch: bool) -> int:
    """Train on the nodes that take part, and return the exit code. The first node decides it from how all nodes
    ended."""
    node, plan = start.node, run.plan
    hosts = tuple(host for host in node.hosts if host not in found.excluded)
    if node.index == 0:
        _record_start(start, found, hosts, plan, run.cluster.scheduler)
    nodes, reserve = (plan.least_nodes, plan.nodes), max(0, len(hosts) - plan.nodes)
    spare = len(hosts) - plan.least_nodes
    launch = replace(launch, max_restarts=plan.max_restarts + spare)  # one more restart for each node that may be lost
    spec = RendezvousSpec(own, nodes, node.index, found.host, found.port, node.name, start.folder, reserve)
    deadline = StopMonitor.of()
    outcome = _run_ranks(launch, spec, start.run)
    node_rendezvous.post_outcome(start.folder, node, outcome)
    if node.index > 0:
        return node_rendezvous.wait_for_conclusion(start.folder, found, NODE_FAILURE)
    outcomes = node_rendezvous.wait_for_outcomes(start.folder, node, hosts, outcome["failed"] is not None)
    past_deadline = deadline.requested() is StopReason.MAKE_WAY
    after, advice = _newest_step(start.run), run.cluster.scheduler.deadline_advice
    ended = job_outcome.of(hosts, outcomes, plan.least_nodes, start.before, after, past_deadline, advice)
    return _leave(start, ended, batch)


def _run_ranks(launch: Launch, spec: RendezvousSpec, run: RunDir) -> NodeOutcome:
    """Run this node's ranks until they end. Returns how they ended."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous import RendezvousError

    failed: NodeFailure | None = None
    ended = RanksEnded(FAILED)
    try:
        ended = elastic_agent.run(launch, spec)
    except (RendezvousError, DistError) as error:
        text = f"{spec.name} lost the other nodes ({type(error).__name__}: {first_line(error)})"
        failed = _no_rank(text, echo=True)
    except ForcedStop:
        if run.whole():
            ended = RanksEnded(STOPPED, StopReason.STOP)
        else:
            failed = _no_rank(_FORCED, echo=False)
    if (rank := ended.failed) is not None:
        text = execute.describe_failure(rank, run, spec.name)
        failed = NodeFailure(rank=rank.rank, code=rank.code, echo=rank.echo, time=rank.time, text=text)
    return NodeOutcome(
        code=ended.code, reason=int(ended.reason), problems=ended.problems, failed=failed, closed=ended.closed
    )


def _no_rank(text: str, echo: bool) -> NodeFailure:
    """Return a failure of the node that is not the failure of a single rank."""
    return NodeFailure(rank=-1, code=FAILED, echo=echo, time=int(time.time()), text=text)


def _record_start(
    start: Start, found: Rendezvous, nodes: Sequence[str], plan: Plan, scheduler: SchedulerConfig
) -> None:
    """Log which nodes take part, and record the start. Only the first node calls this."""
    for host, why in found.excluded.items():
        _log.warning("%s does not take part: %s", host, why)
    id = scheduler.job_id(os.environ)
    known = {"id": id, "scheduler": scheduler.kind} if id else {}
    ranks = plan.devices_per_node * min(len(nodes), plan.nodes)  # the others are a reserve
    run_ledger.record_command(start.run)
    start.record("started", **known, nodes=list(nodes), ranks=ranks, step=start.before)


def _leave(start: Start, outcome: JobOutcome, batch: bool) -> int:
    """Return the exit code. The first node also writes the outcome for the other nodes, the batch script and the job
    log."""
    if start.node.index > 0:
        return outcome.code
    excluded, step = list(outcome.excluded), _newest_step(start.run)
    start.record("ended", code=outcome.code, why=outcome.why, excluded=excluded, step=step)
    if outcome.restart:
        write(start.folder / paths.RESTART, "".join(f"{host}\n" for host in excluded))
    if outcome.text:
        write(start.folder / paths.ERROR, f"{outcome.text}\n")
    write(start.folder / paths.EXIT_CODE, f"{outcome.code}\n")
    node_rendezvous.post_conclusion(start.folder, outcome.code)
    if outcome.text and not batch:
        time.sleep(0.5)  # after the output of other nodes
        _log.error(outcome.text)
    return outcome.code


def _newest_step(run: RunDir) -> int:
    """Return the step of the newest complete checkpoint; 0: there is none."""
    complete = run.whole()
    return complete[-1].step if complete else 0


def _sent_variables(line: str) -> dict[str, str]:
    """Return the variables in the first line of standard input, a JSON object; empty: the input has ended."""
    return {str(name): str(value) for name, value in json.loads(line or "{}").items()}


def _follow_lifeline() -> None:
    """Handle requests on standard input, sent by the process that started this agent. When the input ends, that process
    is gone, and this one gets SIGHUP."""
    for line in sys.stdin:
        if line.strip() in ("USR1", "TERM"):
            os.kill(os.getpid(), signal.Signals[f"SIG{line.strip()}"])
        elif line.strip() == "NOW":
            signals.force()
    os.kill(os.getpid(), signal.SIGHUP)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launcher.launch.node", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="the run folder, as launcher submit wrote it")
    parser.add_argument("--node", type=int, default=0, help="the index of this node among the hosts, from 0")
    parser.add_argument("--hosts", default="", help="all hosts, separated by commas (default: those of the Slurm step)")
    parser.add_argument("--batch", action="store_true", help="let the batch script print the last message")
    parser.add_argument("--lifeline", action="store_true", help="leave when standard input ends")
    parser.add_argument("--environment", action="store_true", help="set the variables of standard input's first line")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    garbage_collection.seldom()
    output_streams.set_up(lasting=True)
    logs.set_up()
    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        signals.ignore()
