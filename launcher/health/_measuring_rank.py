"""A rank of the measurement: a matrix product, and all-reduces with each other rank in turn.

Each pair has a process group of its own. So a rank that is stopped, slow or cut off spoils the figures of its own pairs
only. Results go to the store; the process on the first node reads them.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from launcher.health.rank_measurement import Place
from launcher.health.rank_pairs import rounds

PAIR_SECONDS, ROUND_SECONDS = 10.0, 15.0
"""Seconds for an operation of a pair, and for the other ranks to end a round."""
_MOST, _TIMES = 5000, 3
"""Maximum number of repetitions of an operation, and how often these are timed."""


def main(text: str) -> None:
    """Measure as one rank. `text`: a Place as JSON."""
    place = Place(**json.loads(text))
    if place.interface:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = place.interface
    store = dist.TCPStore(place.host, place.port, is_master=False, timeout=timedelta(seconds=60))
    store.set(f"pid/{place.rank}", str(os.getpid()))
    device = torch.device("cpu" if place.device == "cpu" else f"{place.device}:{place.rank % place.per_node}")
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads that wait for each other on busy cores would multiply every disturbance
    else:
        torch.accelerator.set_device_index(device.index)
    _start_together(store, place)
    store.set(f"compute/{place.rank}", str(matrix_product(device, place.seconds)))
    lost = set[int]()
    for number, pairs in enumerate(rounds(place.world, place.per_node)):
        for pair in pairs:
            if place.rank in pair:
                _measure_pair(store, place, device, pair, lost)
        _end_round(store, place, number, lost)
    store.set(f"end/{place.rank}", "1")


def matrix_product(device: torch.device, seconds: float) -> float:
    """Return the FLOP/s of products of square matrices: fp32 on one core of a CPU, else bf16."""
    cpu = device.type == "cpu"
    size = 384 if cpu else 8192
    left = torch.ones(size, size, device=device, dtype=torch.float32 if cpu else torch.bfloat16)
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, left, out=out)

    each = _seconds_of(multiply, device, seconds, lambda measured: measured)
    return 2.0 * size**3 / each


def _seconds_of(
    run: Callable[[], object], device: torch.device, seconds: float, agreed: Callable[[float], float]
) -> float:
    """Return the mean seconds of an operation, over about `seconds`: the best of some such means.

    A mean counts short pauses, which a median would hide. The best one leaves out what happened once.

    `agreed`: makes the ranks of an operation agree on the duration of one, and so on the number of repetitions.
    """
    run()
    once = agreed(max(1e-7, _timed(run, device, 3) / 3))
    count = max(3, min(_MOST, int(seconds / once)))
    return min(_timed(run, device, count) for _ in range(_TIMES)) / count


def _timed(run: Callable[[], object], device: torch.device, count: int) -> float:
    _synchronize(device)
    begin = time.perf_counter()
    for _ in range(count):
        run()
    _synchronize(device)
    return time.perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def _start_together(store: dist.TCPStore, place: Place) -> None:
    """Wait until every rank has loaded torch, so that none computes alone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not store.check([f"pid/{rank}" for rank in range(place.world)]):
        time.sleep(0.02)


def _measure_pair(
    store: dist.TCPStore, place: Place, device: torch.device, pair: tuple[int, int], lost: set[int]
) -> None:
    """Measure a pair, and store the result; the rank that stays stores why it failed."""
    name, other = f"pair/{pair[0]}-{pair[1]}", pair[1] if place.rank == pair[0] else pair[0]
    if other in lost:
        store.set(f"{name}/problem", f"rank {other} had not answered before")
        return
    try:
        latency, bandwidth = _all_reduces(store, name, place, device, pair)
    except RuntimeError as error:
        store.set(f"{name}/problem", (str(error).strip().splitlines() or [""])[0][:200])
        return
    if place.rank == pair[0]:
        store.set(name, json.dumps([latency, bandwidth]))


def _all_reduces(
    store: dist.TCPStore, name: str, place: Place, device: torch.device, pair: tuple[int, int]
) -> tuple[float, float]:
    """Return the seconds of a small all-reduce, and the bytes per second and direction of a large one."""
    own = dist.PrefixStore(f"group/{name}", store)
    index, timeout = pair.index(place.rank), timedelta(seconds=PAIR_SECONDS)
    group = (dist.ProcessGroupNCCL if device.type == "cuda" else dist.ProcessGroupGloo)(own, index, 2, timeout)
    at = device if device.type == "cuda" else torch.device("cpu")

    def reduce(tensor: torch.Tensor) -> Callable[[], object]:
        return lambda: group.allreduce([tensor]).wait()

    def agreed(seconds: float) -> float:
        slower = torch.tensor([seconds], device=at)
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.MAX
        group.allreduce([slower], options).wait()
        return float(slower.item())

    large = torch.zeros((64 if at.type == "cuda" else 4) * 2**18, device=at)
    latency = _seconds_of(reduce(torch.zeros(1, device=at)), at, place.seconds / 2, agreed)
    return latency, large.nbytes / _seconds_of(reduce(large), at, place.seconds, agreed)


def _end_round(store: dist.TCPStore, place: Place, number: int, lost: set[int]) -> None:
    """Wait for the other ranks to end this round, and note those that do not."""
    store.set(f"round/{number}/{place.rank}", "1")
    deadline = time.monotonic() + ROUND_SECONDS
    waiting = set(range(place.world)) - lost
    while waiting and time.monotonic() < deadline:
        waiting = {rank for rank in waiting if not store.check([f"round/{number}/{rank}"])}
        time.sleep(0.005)
    lost |= waiting
