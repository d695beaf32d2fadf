"""What the figures of ranks say: which rank is slow or silent, and which connection is slow or broken."""

from collections.abc import Sequence
from statistics import median

from launcher.config.format import plural, some
from launcher.health.finding import Check, Finding
from launcher.health.rank_measurement import Measured, PairFigures, RankFigures
from launcher.plan.peak_flops import peak_flops

_COMPUTE, _PAIRS = Check("ranks", "matrix product"), Check("ranks", "all-reduce")
SLOW, VERY_SLOW = 2.5, 5.0
"""How many times slower than the others a rank or a pair is at least, for a warning, and for a failure."""
_OF_PEAK, _FAR_BELOW_PEAK = 0.5, 0.2
"""Share of the data sheet's peak below which a device's product is slow, and broken. A large one reaches 0.6 to 0.8."""
_CURE_RANK = "look there at what else runs (top, nvidia-smi), at temperature, clock and power limits"
_CURE_PAIR = "look at the cable, the switch port and the interface between them (ethtool, ibstat, nvidia-smi topo -m)"


def findings(measured: Measured, device_name: str) -> list[Finding]:
    """Return the findings about ranks. `device_name`: as the driver reports it; empty on a CPU."""
    silent = [rank for rank in measured.ranks if not rank.ended]
    gone = {rank.rank for rank in silent}
    found = [_silent(rank) for rank in silent]
    compute = _slow_computers([rank for rank in measured.ranks if rank.flops], device_name, measured.device)
    pairs = [pair for pair in measured.pairs if not gone & {*pair.ranks}]
    return found + compute + _connections(pairs, measured)


def _silent(rank: RankFigures) -> Finding:
    if rank.code is not None:
        how = f"signal {-rank.code}" if rank.code < 0 else f"exit code {rank.code}"
        what = f"{_name(rank)} has failed ({how}{': ' + rank.error if rank.error else ''})"
        return _PAIRS.failure(what, "repair that: a rank of a run would fail in the same way")
    if rank.pid is None:
        return _PAIRS.failure(f"{_name(rank)} has not started", "look at that host: torch cannot be loaded there")
    what = f"{_name(rank)} does not answer the others: it is stopped, or cut off"
    return _PAIRS.failure(what, "look at that process, its device (dmesg for Xid errors) and its network")


def _name(rank: RankFigures) -> str:
    process = "" if rank.pid is None else f", process {rank.pid}"
    return f"rank {rank.rank} ({rank.host}{process})"


def _slow_computers(ranks: Sequence[RankFigures], device_name: str, device: str) -> list[Finding]:
    """Return the findings about the matrix products."""
    found, best = [], max((rank.flops or 0.0 for rank in ranks), default=0.0)
    for rank in ranks:
        others = [one.flops or 0.0 for one in ranks if one is not rank]
        usual, own = (median(others) if len(others) > 1 else best), rank.flops or 0.0
        if usual > SLOW * own:
            what = f"{_name(rank)} computes {_rate(own)}, {usual / own:.0f} times slower than others ({_rate(usual)})"
            make = _COMPUTE.failure if usual > VERY_SLOW * own else _COMPUTE.warning
            found.append(make(what, _CURE_RANK))
    peak = peak_flops(device_name, "bf16")
    if peak is not None and ranks and not found:
        return _beside_peak(ranks, peak, device_name)
    if found or not ranks:
        return found
    least = min(rank.flops or 0.0 for rank in ranks)
    kind = "fp32 on one core" if device == "cpu" else "bf16"
    known = "" if device == "cpu" else ", and no data sheet's figure is known for it"
    return [_COMPUTE.ok(f"{plural(len(ranks), 'rank')}: {_rate(least)} to {_rate(best)} in {kind}{known}")]


def _beside_peak(ranks: Sequence[RankFigures], peak: float, device_name: str) -> list[Finding]:
    low = [rank for rank in ranks if (rank.flops or 0.0) < _OF_PEAK * peak]
    if not low:
        least = min(rank.flops or 0.0 for rank in ranks)
        what = f"{_rate(least)} or more in bf16, {least / peak:.0%} of the data sheet's {_rate(peak)} ({device_name})"
        return [_COMPUTE.ok(what)]
    found = []
    for rank in low:
        share = (rank.flops or 0.0) / peak
        make = _COMPUTE.failure if share < _FAR_BELOW_PEAK else _COMPUTE.warning
        what = f"{_name(rank)} computes {_rate(rank.flops or 0.0)}, {share:.0%} of the data sheet's {_rate(peak)}"
        found.append(make(f"{what} ({device_name})", _CURE_RANK))
    return found


def _connections(pairs: Sequence[PairFigures], measured: Measured) -> list[Finding]:
    """Return the findings about pairs of ranks that both have answered."""
    names = {rank.rank: rank for rank in measured.ranks}
    found = []
    for pair in pairs:
        if pair.problem:
            between = " and ".join(_name(names[rank]) for rank in pair.ranks)
            found.append(_PAIRS.failure(f"{between} do not reach each other: {pair.problem}", _CURE_PAIR))
    good = [pair for pair in pairs if not pair.problem]
    slow = _slow_ranks(good, measured.per_node)
    for rank, times in slow.items():
        what = f"all all-reduces of {_name(names[rank])} are slow, the best {times:.0f} times slower than others"
        found.append((_PAIRS.failure if times > VERY_SLOW else _PAIRS.warning)(what, _CURE_RANK))
    rest = [pair for pair in good if not set(slow) & {*pair.ranks}]
    for pair in rest:
        times = _times_slower(pair, rest, measured.per_node)
        if times > SLOW:
            between = " and ".join(_name(names[rank]) for rank in pair.ranks)
            what = f"{between}: {pair.bandwidth / 1e9:.2f} GB/s, {times:.0f} times slower than other pairs"
            found.append((_PAIRS.failure if times > VERY_SLOW else _PAIRS.warning)(what, _CURE_PAIR))
    return found + _speeds(rest, measured)


def _slow_ranks(pairs: Sequence[PairFigures], per_node: int) -> dict[int, float]:
    """Return the ranks whose every pair is slow, with how many times slower their best pair is than pairs without
    them. Two slow ranks are both found, since each has a slow pair with every other rank."""
    found = dict[int, float]()
    for rank in {rank for pair in pairs for rank in pair.ranks}:
        without = [pair for pair in pairs if rank not in pair.ranks]
        own = [_times_slower(pair, without, per_node) for pair in pairs if rank in pair.ranks]
        if own and min(own) > SLOW:
            found[rank] = min(own)
    return dict(sorted(found.items()))


def _times_slower(pair: PairFigures, others: Sequence[PairFigures], per_node: int) -> float:
    """Return how many times slower a pair is than the median of other pairs of its kind, within a node or between two;
    1: there are none."""
    kind = _is_within(pair, per_node)
    usual = [one.bandwidth for one in others if one is not pair and _is_within(one, per_node) == kind]
    return median(usual) / pair.bandwidth if usual and pair.bandwidth else 1.0


def _is_within(pair: PairFigures, per_node: int) -> bool:
    return pair.ranks[0] // per_node == pair.ranks[1] // per_node


def _speeds(pairs: Sequence[PairFigures], measured: Measured) -> list[Finding]:
    """Return the finding with the figures of the pairs that are sound."""
    library = "NCCL" if measured.device == "cuda" else "gloo"
    lines, keys = list[str](), list[str]()
    for within, where, key in ((True, "within a node", "within_node"), (False, "between nodes", "between_nodes")):
        chosen = [pair for pair in pairs if _is_within(pair, measured.per_node) == within]
        if chosen:
            speeds, delays = [one.bandwidth for one in chosen], [one.latency for one in chosen]
            speed = f"{min(speeds) / 1e9:.2f} to {max(speeds) / 1e9:.2f} GB/s"
            lines.append(f"{plural(len(chosen), 'pair')} {where} {speed}, {median(delays) * 1e6:,.0f} us")
            message = median(delays) / 2  # an all-reduce of two ranks is two messages, one after the other
            keys.append(f"{key}: {median(speeds) / 1e9:.3g}, latency_{key}: {message * 1e6:.3g}")
    profile = f"as a profile has them, links: {{{', '.join(keys)}}}, efficiency: {{links: 1}}"
    return [_PAIRS.ok(f"{library}: {some(lines)}; {profile}")] if lines else []


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.1f} GFLOP/s"
