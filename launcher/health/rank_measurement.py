"""The measurement of ranks: real processes, each pair of which makes all-reduces by gloo, or by NCCL on NVIDIA GPUs."""

import json
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from launcher.health.rank_pairs import pairs, rounds

if TYPE_CHECKING:
    import torch.distributed as dist

Process: TypeAlias = "subprocess.Popen[str]"
"""A measuring rank of this node."""
_GRACE = 3.0
"""Seconds that the last ranks get after all others have ended."""
START_SECONDS, ROUND_SECONDS = 120.0, 20.0
"""Seconds for the ranks to load torch and to compute, and for each round."""
_OVER = "over"


@dataclass(frozen=True)
class Place:
    """Place of a measuring rank. `host`, `port`: of the store. `seconds`: duration of each figure. `interface`: network
    interface; empty: the library chooses."""

    rank: int
    world: int
    per_node: int
    host: str
    port: int
    device: str
    seconds: float
    interface: str = ""


@dataclass(frozen=True)
class RankFigures:
    """Figures of a rank. `flops`: FLOP/s; None: not measured. `ended`: whether it measured all its pairs. `code`: exit
    code of a process that failed; None: it did not, or runs on another node."""

    rank: int
    host: str
    pid: int | None = None
    flops: float | None = None
    ended: bool = False
    code: int | None = None
    error: str = ""


@dataclass(frozen=True)
class PairFigures:
    """Figures of a pair. `latency`: seconds of a small all-reduce; `bandwidth`: bytes per second and direction.
    `problem`: why there are none; empty: there are."""

    ranks: tuple[int, int]
    latency: float = 0.0
    bandwidth: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Measured:
    """Result of a measurement."""

    device: str
    per_node: int
    ranks: Sequence[RankFigures]
    pairs: Sequence[PairFigures] = field(default_factory=tuple)


def start(places: Sequence[Place], environment: Mapping[str, str]) -> list[Process]:
    """Start the ranks of this node."""
    begin = f"import sys; sys.path[:] = {sys.path!r}; from launcher.health._measuring_rank import main"
    return [
        subprocess.Popen(
            [sys.executable, "-P", "-c", f"{begin}; main({json.dumps(asdict(place))!r})"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=dict(environment),
        )
        for place in places
    ]  # fmt: skip


def wait(processes: Sequence[Process], store: "dist.TCPStore", world: int, per_node: int) -> None:
    """Wait, on a node other than the first, until the ranks here have ended or the first node has the results."""
    deadline = _deadline(world, per_node)
    while time.monotonic() < deadline and any(one.poll() is None for one in processes):
        if store.check([_OVER]):
            return
        time.sleep(0.05)


def collect(
    processes: Sequence[Process], store: "dist.TCPStore", hosts: Sequence[str], device: str,
    per_node: int,
) -> Measured:  # fmt: skip
    """Wait, on the first node, for the ranks, and return their figures. `hosts`: of each rank."""
    world, deadline, all_but_few = len(hosts), _deadline(len(hosts), per_node), None
    while time.monotonic() < deadline:
        ended = [rank for rank in range(world) if store.check([f"end/{rank}"])]
        failed = [rank for rank, one in enumerate(processes) if one.poll() not in (None, 0)]
        if len({*ended, *failed}) == world:
            break
        if ended and all_but_few is None and world - len({*ended, *failed}) <= max(1, world // 4):
            all_but_few = time.monotonic() + _GRACE
        if all_but_few is not None and time.monotonic() > all_but_few:
            break
        time.sleep(0.05)
    codes = {rank: one.poll() for rank, one in enumerate(processes)}
    errors = {rank: _last_line(processes[rank]) for rank, code in codes.items() if code}
    figures = [_of_rank(store, rank, host, codes.get(rank), errors.get(rank, "")) for rank, host in enumerate(hosts)]
    found = [_of_pair(store, pair) for pair in pairs(world, per_node)]
    store.set(_OVER, "1")
    return Measured(device, per_node, figures, found)


def end(processes: Collection[Process]) -> None:
    """End the ranks of this node, also one that is stopped."""
    for one in processes:
        one.kill()
    for one in processes:
        one.wait()
        if one.stderr is not None:
            one.stderr.close()


def _deadline(world: int, per_node: int) -> float:
    return time.monotonic() + START_SECONDS + ROUND_SECONDS * len(rounds(world, per_node))


def _last_line(process: Process) -> str:
    text = process.stderr.read() if process.stderr is not None else ""
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1][:200]


def _of_rank(store: "dist.TCPStore", rank: int, host: str, code: int | None, error: str) -> RankFigures:
    pid, flops = (_read(store, f"{key}/{rank}") for key in ("pid", "compute"))
    return RankFigures(
        rank, host, int(pid) if pid else None, float(flops) if flops else None, bool(_read(store, f"end/{rank}")),
        code or None, error,
    )  # fmt: skip


def _of_pair(store: "dist.TCPStore", pair: tuple[int, int]) -> PairFigures:
    name = f"pair/{pair[0]}-{pair[1]}"
    if text := _read(store, name):
        latency, bandwidth = json.loads(text)
        return PairFigures(pair, latency, bandwidth)
    return PairFigures(pair, problem=_read(store, f"{name}/problem") or "it was not measured")


def _read(store: "dist.TCPStore", key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
