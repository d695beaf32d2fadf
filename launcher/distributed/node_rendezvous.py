"""The nodes of a start meet in the run folder, before any of them starts a rank, and once more when they end.

Each node reports there where it listens, then knocks at every other by its name, and says whom it did not reach. The
first node decides who takes part, serves the store at which agents and ranks meet, and tells where: on a port that is
bound by then. At the end it waits for what each has to say, unless nobody is behind the door any more. A folder that
all nodes see is needed anyhow; it works while the network between them does not, and what was said can be read
afterwards.
"""

import json
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.config.atomic_files import write
from launcher.distributed import health_check
from launcher.distributed.health_check import Node as Node
from launcher.distributed.launch_env import LOOPBACK

REPORT = 60.0
"""Seconds that nodes are given to report: Python starts slowly from a shared disk that many read at once."""
LEAVE = 10.0
"""Seconds that nodes are given to say how they ended, and a few more, after the first of them has; three times as many
where ranks have failed, which others may be slow to hear of. Those who are gone are not waited for."""
_KNOCKS = 2
"""How often in a row nobody is behind a node's door before it is taken to be gone."""
TELL = 20.0
"""Seconds of waiting after which it is told for whom and what: Python and torch may well take ten to start."""
_FOR = {
    "report": "to report", "reached": "to say which others answer", "verdict": "to say who takes part",
    "ended": "to say how training ended there", "concluded": "to conclude how the run ended",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where the agents meet. `left`: the hosts that do not take part, and why. `door`: at which this node answers for
    as long as its agent lives; `store`: what the first node serves."""

    host: str
    port: int
    left: Mapping[str, str]
    door: Any = None
    store: Any = None


class UnhealthyNodes(Exception):
    """Too few nodes are fit to begin. `why`: of those that are not."""

    def __init__(self, why: Mapping[str, str]):
        super().__init__("; ".join(f"{host}: {what}" for host, what in why.items()))
        self.why = dict(why)


class NodeNotNeeded(Exception):
    """This node is not fit, and the others begin without it."""


class NodeStopped(Exception):
    """Told to leave while the nodes were still meeting."""


def meet(folder: Path, node: Node, least: int, stop: Path, unfit: str | None = None) -> Place:
    """Find out which nodes are fit, all of them alike. `folder`: of this start; `least`: how many nodes it takes;
    `stop`: the file that says to leave; `unfit`: what is wrong with this node, as far as it knows by itself. Raises
    UnhealthyNodes, NodeNotNeeded, NodeStopped, and OSError where nothing can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    door = health_check.listening(node.hosts, node.index, folder.name)
    try:
        _say(
            folder,
            f"report-{node.index}",
            {"host": node.name, "port": door.getsockname()[1], "unfit": unfit or _disk()},
        )
        reports = _hear(folder, "report", node.hosts, REPORT, stop)
        others = {i: reports[i]["port"] for i in reports if i != node.index}
        _say(folder, f"reached-{node.index}", health_check.knock(node, others, folder.name))
        place = _decide(folder, node, reports, least, stop) if node.index == 0 else _told(folder, node, stop)
    except BaseException:
        door.close()
        raise
    return replace(place, door=door)


def end(folder: Path, node: Node, how: Mapping[str, Any]) -> None:
    """Say how this node ended."""
    _say(folder, f"ended-{node.index}", {"host": node.name, **how})


def ends(folder: Path, node: Node, took_part: Collection[str], failed: bool) -> dict[str, dict[str, Any]]:
    """How the nodes that took part ended, by host: without those that have not said it in time, or that are gone. Who
    has said it stays behind its door until all is concluded."""
    found, shut, told = dict[int, dict[str, Any]](), Counter[int](), False
    wanted = {i for i, host in enumerate(node.hosts) if host in took_part}
    ports = {i: said["port"] for i, said in _hear(folder, "report", node.hosts, 0, None, only=wanted).items()}
    begun, most = time.monotonic(), 3 * LEAVE if failed else LEAVE
    while missing := {i for i in wanted - set(found) if shut[i] < _KNOCKS}:
        found |= _hear(folder, "ended", node.hosts, 1.0, None, only=missing)
        waited, missing = time.monotonic() - begun, missing - set(found)
        if waited > most:
            break
        if waited > TELL and missing and not told:
            _tell("ended", [node.hosts[i] for i in sorted(missing)])
            told = True
        for i, gone in health_check.gone(
            {i: (node.hosts[i], ports[i]) for i in missing - {node.index} if i in ports}
        ).items():
            shut[i] = shut[i] + 1 if gone else 0
    return {node.hosts[i]: how for i, how in found.items()}


def conclude(folder: Path, code: int) -> None:
    """The first node says with which code all nodes leave."""
    _say(folder, "concluded-0", {"code": code})


def concluded(folder: Path, place: Place, own: int) -> int:
    """The code with which all nodes leave, waited for as long as the first node lives; the own one where it does not.
    It may have much to do: a rank there may still be sending its last numbers somewhere."""
    while True:
        alive = _serves(place)
        said = _hear(folder, "concluded", (place.host,), 2.0, None)
        if said or not alive:
            return int(said[0]["code"]) if said else own


def _serves(place: Place) -> bool:
    with suppress(OSError), socket.create_connection((place.host, place.port), timeout=health_check.KNOCK):
        return True
    return False


def blame(failed: Mapping[int, Mapping[int, str]], nodes: Iterable[int]) -> dict[int, str]:
    """The fewest nodes whose absence leaves none that does not reach another, each with what was said of it. `failed`:
    of each node those that it did not reach, and why. Of two nodes the one that was not reached is blamed."""
    open_ = {(i, j): why for i, missed in failed.items() for j, why in missed.items()}
    out = dict[int, str]()
    while open_:
        count = {n: sum(n in pair for pair in open_) for n in nodes}
        worst = max(count, key=lambda n: (count[n], sum(n == j for _, j in open_), n))
        said = [why for (_, j), why in open_.items() if j == worst] or [
            f"reaches none of {len(open_)} others: {next(iter(open_.values()))}"
        ]
        out[worst] = said[0] if len(said) == 1 else f"{said[0]}, and {len(said) - 1} more say so"
        open_ = {pair: why for pair, why in open_.items() if worst not in pair}
    return out


def _decide(folder: Path, node: Node, reports: dict[int, dict[str, Any]], least: int, stop: Path) -> Place:
    """The first node's part."""
    heard = _hear(folder, "reached", node.hosts, 2 * health_check.KNOCK, stop, only=set(reports))
    why = {
        i: f"has not reported in {REPORT:.0f} s: it does not see {folder}, or its agent did not start"
        for i in range(len(node.hosts))
        if i not in reports
    }
    why |= {i: said["unfit"] for i, said in reports.items() if said["unfit"]}
    why |= {i: "has stopped while the nodes were meeting" for i in reports if i not in heard}
    missed = {i: {int(j): what for j, what in said.items()} for i, said in heard.items()}
    missed = {i: {j: what for j, what in said.items() if j not in why} for i, said in missed.items() if i not in why}
    why |= blame(missed, [i for i in reports if i not in why])
    named = {node.hosts[i]: what for i, what in sorted(why.items())}
    if 0 in why or len(node.hosts) - len(why) < least:
        _say(folder, "verdict-0", {"unfit": named})
        raise UnhealthyNodes(named)
    host = LOOPBACK if len(node.hosts) == 1 else node.name
    store, port = _serve(node, host)
    _say(folder, "verdict-0", {"host": host, "port": port, "left": named})
    return Place(host, port, named, store=store)


def _told(folder: Path, node: Node, stop: Path) -> Place:
    """Every other node's part."""
    said = _hear(folder, "verdict", node.hosts[:1], REPORT + 3 * health_check.KNOCK, stop)
    if not said:
        raise UnhealthyNodes({node.hosts[0]: "is the first node, and has not said who takes part"})
    verdict = said[0]
    if "unfit" in verdict:
        raise UnhealthyNodes(verdict["unfit"])
    if node.name in verdict["left"]:
        raise NodeNotNeeded(verdict["left"][node.name])
    return Place(verdict["host"], verdict["port"], verdict["left"])


def _serve(node: Node, host: str) -> tuple[Any, int]:
    """A store, listening on a port that the system chose."""
    import torch.distributed as dist

    listening = health_check.bound(node.hosts, node.index)
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach(), use_libuv=True
    )
    return store, port


def _disk() -> str | None:
    """What is wrong with the disk for what lives as long as a job."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"its temporary folder {tempfile.gettempdir()} cannot be written to ({error.strerror})"
    return None


def _say(folder: Path, name: str, what: Mapping[Any, Any]) -> None:
    write(folder / f"{name}.json", json.dumps(what))


def _hear(
    folder: Path,
    what: str,
    hosts: tuple[str, ...],
    seconds: float,
    stop: Path | None,
    only: set[int] | None = None,
) -> dict[int, dict[str, Any]]:
    """What the nodes have said under this name, as soon as all have, or after so long. The folder is listed each time:
    on a network disk a name that was not there may else not be there for a minute. Raises NodeStopped."""
    wanted = set(range(len(hosts))) if only is None else only
    heard, begun, told = dict[int, dict[str, Any]](), time.monotonic(), False
    while wanted - set(heard):
        if stop is not None and stop.exists():
            raise NodeStopped
        there = set(os.listdir(folder))  # noqa: PTH208 (names alone)
        for i in wanted - set(heard):
            if f"{what}-{i}.json" in there:
                with suppress(OSError, ValueError):  # of a network disk, seen before its content is
                    heard[i] = json.loads((folder / f"{what}-{i}.json").read_text(encoding="utf-8"))
        waited = time.monotonic() - begun
        if waited > seconds:
            break
        if waited > TELL and not told and wanted - set(heard):
            _tell(what, [hosts[i] for i in sorted(wanted - set(heard))])
            told = True
        time.sleep(0.05)
    return heard


def _tell(what: str, hosts: Sequence[str]) -> None:
    """For whom the first node waits, and for what."""
    print(f"waiting for {', '.join(hosts[:10])} {_FOR[what]}", file=sys.stderr, flush=True)
