"""The rendezvous of a start's nodes in the run folder, before any of them starts a rank and after all have ended.

Each node reports where its agent answers, checks that every other agent answers by its host's name, and reports which
ones do not. The first node decides which nodes take part, serves the store of the agents and ranks, and posts its
address. At the end it waits for the outcome of each node whose agent still answers.
"""

import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from launcher.config.paths import NODE_OUTCOME, NODE_REPORT, NODE_VERDICT, message_file, node_message
from launcher.distributed import health_check
from launcher.distributed.health_check import Node as Node
from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.rendezvous import Message, MessageFolder, serve_store
from launcher.health import disks

if TYPE_CHECKING:
    import torch.distributed as dist

REPORT_SECONDS = 60.0
"""Seconds for nodes to report: Python starts slowly from a shared disk that many read at once."""
OUTCOME_SECONDS = 10.0
"""Seconds for the other nodes to post their outcome after the first node has ended. If its ranks have failed, three
times as many, because other nodes may notice that late. Dead nodes are not waited for."""
NOTICE_SECONDS = 20.0
"""Seconds of waiting after which the log names the missing nodes. Python and torch may need ten seconds to start."""
_DEAD_CHECKS = 2
"""Failed health checks in a row after which an agent counts as dead."""
_PURPOSE = {
    NODE_REPORT: "to report", "reached": "to report which others answer",
    NODE_VERDICT: "to report which nodes take part", NODE_OUTCOME: "to report how training ended there",
    "concluded": "to conclude how the run ended",
}  # fmt: skip

_log = logging.getLogger(__name__)


class NodeFailure(TypedDict):
    """A rank that failed on a node. `echo`: whether it only lost another rank. `time`: seconds since the epoch."""

    rank: int
    code: int
    echo: bool
    time: int
    text: str


class NodeOutcome(TypedDict):
    """How the ranks of a node ended. `closed`: whether they ended because they were not needed any more."""

    code: int
    reason: int
    problems: list[str]
    failed: NodeFailure | None
    closed: bool


@dataclass(frozen=True)
class Rendezvous:
    """The result of the rendezvous of a start's agents.

    `excluded`: hosts that do not take part, with the reasons. `answering`: socket at which this node's agent answers
    health checks. `store`: the store, on the first node, which serves it.
    """

    host: str
    port: int
    excluded: Mapping[str, str]
    answering: socket.socket | None = None
    store: "dist.TCPStore | None" = None


class UnhealthyNodes(Exception):
    """Error: too few nodes can take part. `why`: the reasons, by host."""

    def __init__(self, why: Mapping[str, str]):
        super().__init__("; ".join(f"{host}: {what}" for host, what in why.items()))
        self.why = dict(why)


class NodeNotNeeded(Exception):
    """Error: this node is unhealthy, and the others begin without it."""


def join(
    folder: Path, node: Node, least: int, should_stop: Callable[[], bool], problem: str | None = None
) -> Rendezvous:
    """Agree with the other nodes on which of them take part.

    `folder`: folder of this start. `least`: minimum number of nodes. `problem`: what is wrong with this node, if
    already known. Raises UnhealthyNodes, NodeNotNeeded, StoppedBeforeTraining, and OSError if the folder cannot be
    written.
    """
    messages = MessageFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    answering = health_check.serve_answers(node, folder.name)
    try:
        port, problem = answering.getsockname()[1], problem or disks.temporary_problem()
        messages.post(node_message(NODE_REPORT, node.index), {"host": node.name, "port": port, "unfit": problem})
        reports = _wait(messages, NODE_REPORT, node.hosts, REPORT_SECONDS, should_stop)
        ports = {i: reports[i]["port"] for i in reports if i != node.index}
        unreached = health_check.unreachable_peers(node, ports, folder.name)
        messages.post(node_message("reached", node.index), {str(i): problem for i, problem in unreached.items()})
        decide = _decide if node.index == 0 else _follow
        found = decide(messages, node, reports, least, should_stop)
    except BaseException:
        answering.close()
        raise
    return replace(found, answering=answering)


def post_outcome(folder: Path, node: Node, outcome: NodeOutcome) -> None:
    """Post how this node ended. Raises OSError."""
    MessageFolder(folder).post(node_message(NODE_OUTCOME, node.index), {"host": node.name, **outcome})


def posted_outcomes(folder: Path) -> list[NodeOutcome]:
    """Return the outcomes that nodes have posted. Files that cannot be read at present are left out."""
    outcomes = list[NodeOutcome]()
    for file in folder.glob(message_file(node_message(NODE_OUTCOME, "*"))):
        with suppress(OSError, ValueError):
            outcomes.append(json.loads(file.read_text(encoding="utf-8")))
    return outcomes


def wait_for_outcomes(folder: Path, node: Node, took_part: Collection[str], failed: bool) -> dict[str, NodeOutcome]:
    """Return how the nodes that took part ended, by host. Nodes that are dead, or did not post in time, are left out.

    `failed`: whether ranks of this node have failed. An agent that has posted its outcome lives until the conclusion.
    """
    messages = MessageFolder(folder)
    outcomes, failures, noticed = dict[int, Message](), Counter[int](), False
    wanted = {i for i, host in enumerate(node.hosts) if host in took_part}
    reports = _wait(messages, NODE_REPORT, node.hosts, 0, _never, only=wanted)
    begin, most = time.monotonic(), 3 * OUTCOME_SECONDS if failed else OUTCOME_SECONDS
    while missing := {i for i in wanted - set(outcomes) if failures[i] < _DEAD_CHECKS}:
        outcomes |= _wait(messages, NODE_OUTCOME, node.hosts, 1.0, _never, only=missing)
        waited, missing = time.monotonic() - begin, missing - set(outcomes)
        if waited > most:
            break
        if waited > NOTICE_SECONDS and missing and not noticed:
            _notice(NODE_OUTCOME, [node.hosts[i] for i in sorted(missing)])
            noticed = True
        endpoints = {i: (node.hosts[i], reports[i]["port"]) for i in missing - {node.index} if i in reports}
        for i, is_dead in health_check.dead_agents(endpoints).items():
            failures[i] = failures[i] + 1 if is_dead else 0
    return {node.hosts[i]: cast(NodeOutcome, outcome) for i, outcome in outcomes.items()}


def post_conclusion(folder: Path, code: int) -> None:
    """Post the exit code of all nodes. Only the first node calls this. Raises OSError."""
    MessageFolder(folder).post(node_message("concluded", 0), {"code": code})


def wait_for_conclusion(folder: Path, found: Rendezvous, default: int) -> int:
    """Return the exit code of all nodes; `default`: the first node ended without posting it.

    There is no time limit while the first node lives: a rank there may still be sending its last metrics.
    """
    while True:
        is_alive = health_check.first_reachable([found.host], found.port, health_check.ANSWER_SECONDS).host
        concluded = _wait(MessageFolder(folder), "concluded", (found.host,), 2.0, _never)
        if concluded or not is_alive:
            return int(concluded[0]["code"]) if concluded else default


def _decide(
    messages: MessageFolder, node: Node, reports: Mapping[int, Message], least: int, should_stop: Callable[[], bool]
) -> Rendezvous:
    """Decide, as the first node, who takes part; serve the store, and post both. Raises UnhealthyNodes."""
    seconds = 2 * health_check.ANSWER_SECONDS
    reached = _wait(messages, "reached", node.hosts, seconds, should_stop, only=set(reports))
    why = _unhealthy(messages, node, reports, reached)
    unhealthy = {node.hosts[i]: problem for i, problem in sorted(why.items())}
    if 0 in why or len(node.hosts) - len(why) < least:
        messages.post(node_message(NODE_VERDICT, 0), {"unfit": unhealthy})
        raise UnhealthyNodes(unhealthy)
    host = LOOPBACK if len(node.hosts) == 1 else node.name
    store, port = serve_store(health_check.listen(node.hosts, node.index), host)
    messages.post(node_message(NODE_VERDICT, 0), {"host": host, "port": port, "left": unhealthy})
    _log.debug("the rendezvous of the nodes is at %s, port %d", host, port)
    return Rendezvous(host, port, unhealthy, store=store)


def _unhealthy(
    messages: MessageFolder, node: Node, reports: Mapping[int, Message], reached: Mapping[int, Message]
) -> dict[int, str]:
    """Return the nodes that cannot take part, each with the reason."""
    silent = f"has not reported in {REPORT_SECONDS:.0f} s: it does not see {messages.path}, or its agent did not start"
    silent += _trouble(messages)
    why = {i: silent for i in range(len(node.hosts)) if i not in reports}
    why |= {i: report["unfit"] for i, report in reports.items() if report["unfit"]}
    why |= {i: "has stopped during the rendezvous" for i in reports if i not in reached}
    healthy = {i for i in reports if i not in why}
    unreached = {
        i: {int(j): problem for j, problem in problems.items() if int(j) in healthy}
        for i, problems in reached.items()
        if i in healthy
    }
    return why | health_check.nodes_to_exclude(unreached, sorted(healthy))


def _follow(
    messages: MessageFolder, node: Node, reports: Mapping[int, Message], least: int, should_stop: Callable[[], bool]
) -> Rendezvous:
    """Wait, as any other node, for the first node's decision. Raises UnhealthyNodes or NodeNotNeeded."""
    seconds = REPORT_SECONDS + 3 * health_check.ANSWER_SECONDS
    verdicts = _wait(messages, NODE_VERDICT, node.hosts[:1], seconds, should_stop)
    if not verdicts:
        what = "is the first node, and has not reported which nodes take part"
        raise UnhealthyNodes({node.hosts[0]: what + _trouble(messages)})
    verdict = verdicts[0]
    if "unfit" in verdict:
        raise UnhealthyNodes(verdict["unfit"])
    if node.name in verdict["left"]:
        raise NodeNotNeeded(verdict["left"][node.name])
    return Rendezvous(verdict["host"], verdict["port"], verdict["left"])


def _wait(
    messages: MessageFolder,
    kind: str,
    hosts: Sequence[str],
    seconds: float,
    should_stop: Callable[[], bool],
    only: Collection[int] | None = None,
) -> dict[int, Message]:
    """Return the nodes' messages of a kind, by index, as soon as all are posted or after `seconds`.

    `only`: the nodes to wait for; None: all. The log names the missing ones once. Raises StoppedBeforeTraining.
    """
    names = {node_message(kind, i): i for i in (range(len(hosts)) if only is None else sorted(only))}
    noticed = list[str]()

    def late(waited: float, missing: list[str]) -> None:
        if waited > NOTICE_SECONDS and not noticed:
            noticed.extend(missing)
            _notice(kind, [hosts[names[name]] for name in missing])

    found = messages.wait(list(names), seconds, should_stop, late)
    return {names[name]: message for name, message in found.items()}


def _notice(kind: str, hosts: Sequence[str]) -> None:
    _log.info("waiting for %s %s", ", ".join(hosts[:10]), _PURPOSE[kind])


def _trouble(messages: MessageFolder) -> str:
    return f" ({messages.trouble})" if messages.trouble else ""


def _never() -> bool:
    return False
