"""What figures say about ranks and connections."""

from itertools import combinations

import pytest

from launcher.health import rank_findings
from launcher.health.rank_measurement import Measured, PairFigures, RankFigures

FAST = 4e9


def measured(world=4, per_node=2, flops=None, pairs=None, **changed):
    ranks = [
        RankFigures(r, f"n{r // per_node + 1}", 100 + r, (flops or {}).get(r, 1e10), ended=True) for r in range(world)
    ]
    for rank, figures in changed.items():
        ranks[int(rank[1:])] = figures
    speeds = {
        pair: FAST if pair[0] // per_node == pair[1] // per_node else FAST / 10
        for pair in combinations(range(world), 2)
    }
    speeds |= pairs or {}
    found = [PairFigures(pair, 1e-4, speed) if isinstance(speed, float) else PairFigures(pair, problem=speed)
             for pair, speed in speeds.items()]  # fmt: skip
    return Measured("cpu", per_node, ranks, found)


def of(figures, name=""):
    return [(one.level, one.found) for one in rank_findings.findings(figures, name)]


def test_a_sound_machine_has_no_failure():
    assert of(measured()) == [
        ("ok", "4 ranks: 10.0 GFLOP/s to 10.0 GFLOP/s in fp32 on one core"),
        (
            "ok",
            "gloo: 2 pairs within a node 4.00 to 4.00 GB/s, 100 us, 4 pairs between nodes 0.40 to 0.40 GB/s, 100 us; "
            "as a profile has them, links: {within_node: 4, latency_within_node: 50, between_nodes: 0.4, "
            "latency_between_nodes: 50}, efficiency: {links: 1}",
        ),
    ]
    assert [level for level, _ in of(measured(world=1))] == ["ok"]


def test_a_rank_that_computes_slowly_is_named_with_its_host():
    found = of(measured(flops={2: 1e9}))
    assert found[0] == ("failure", "rank 2 (n2, process 102) computes 1.0 GFLOP/s, 10 times slower than others (10.0 "
                                   "GFLOP/s)")  # fmt: skip
    assert of(measured(flops={2: 3e9}))[0][0] == "warning"
    assert of(measured(world=2, flops={1: 1e9}))[0][1].startswith("rank 1 (n1, process 101) computes")


def test_a_rank_whose_every_connection_is_slow_is_named_once():
    slow = {pair: 1e7 for pair in combinations(range(4), 2) if 3 in pair}
    lines = [line for level, line in of(measured(pairs=slow)) if level == "failure"]
    assert len(lines) == 1 and lines[0].startswith("all all-reduces of rank 3 (n2, process 103) are slow, the best 40 ")


def test_a_slow_or_broken_connection_names_both_ends():
    found = of(measured(pairs={(0, 3): 1e7, (1, 2): "Connection reset"}))
    broken, slow = (line for level, line in found if level == "failure")
    assert broken == "rank 1 (n1, process 101) and rank 2 (n2, process 102) do not reach each other: Connection reset"
    assert slow.startswith("rank 0 (n1, process 100) and rank 3 (n2, process 103): 0.01 GB/s, 40 times slower")


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (RankFigures(1, "n1", 7), "rank 1 (n1, process 7) does not answer the others: it is stopped, or cut off"),
        (RankFigures(1, "n1"), "rank 1 (n1) has not started"),
        (RankFigures(1, "n1", 7, code=-9), "rank 1 (n1, process 7) has failed (signal 9)"),
        (RankFigures(1, "n1", 7, code=1, error="E: x"), "rank 1 (n1, process 7) has failed (exit code 1: E: x)"),
    ],
)
def test_a_silent_rank_is_named_and_its_pairs_are_not_named_again(figures, sentence):
    pairs = {pair: "timeout" for pair in combinations(range(4), 2) if 1 in pair}
    assert [line for level, line in of(measured(r1=figures, pairs=pairs)) if level == "failure"] == [sentence]


@pytest.mark.parametrize(("share", "level"), [(0.7, "ok"), (0.4, "warning"), (0.1, "failure")])
def test_a_gpu_is_compared_with_its_data_sheet(share, level):
    of_a100 = measured(flops=dict.fromkeys(range(4), share * 312e12))
    found = of(of_a100, "NVIDIA A100-SXM4-80GB")[0]
    assert found[0] == level and f"{share:.0%} of the data sheet's 312.0 TFLOP/s (NVIDIA A100-SXM4-80GB)" in found[1]
