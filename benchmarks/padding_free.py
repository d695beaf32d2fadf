"""Samples side by side in one row beside padded ones: `python benchmarks/padding_free.py [--rounds 5] [--threads 1]`.

Topics of 9,033 introductions of Wikipedia articles at their own lengths, MiniLM, batches of 32, on one rank. Padded
rows and rows without padding take the same steps by turns, under several budgets of tokens for a micro-batch. The
learning rate is next to nothing, so that the losses of a step can be compared. A ratio is the median of the pairwise
ones.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import fetched

RECIPE = """
name: {name}
seed: 1
model: {{kind: pretrained, name: ./minilm, dropout: {dropout}}}
data: {{train: {{kind: jsonl, path: topics.jsonl}}, max_length: 256}}
task: {{kind: sequence_classification}}
train: {{global_batch: 32, steps: 1000, precision: {precision}, padding_free: {free}}}
optimizer: {{kind: adamw, lr: 1.0e-12}}
sinks: []
"""
BUDGETS = (4096, 2048, 1024)


class Step(NamedTuple):
    seconds: float
    loss: float
    fill: float
    data: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory(prefix="launcher-padding-free-") as folder:
        os.chdir(folder)
        os.environ["LAUNCHER_CACHE"] = f"{folder}/cache"
        fetched.topics(Path("topics.jsonl"))
        fetched.minilm(Path("minilm"))
        runs = {kind: _run(kind, options) for kind in ("padded", "free")}
        _report(_take(runs, options.rounds))


def _take(runs: dict[str, Any], rounds: int) -> dict[tuple[str, int], list[Step]]:
    """The same steps of every run under every budget, by turns."""
    taken: dict[tuple[str, int], list[Step]] = {(kind, budget): [] for budget in BUDGETS for kind in runs}
    for number in range(rounds + 1):
        for (kind, budget), steps in taken.items():
            step = _step(runs[kind], budget, number)
            steps += [step] if number else []
    return taken


def _report(taken: dict[tuple[str, int], list[Step]]) -> None:
    print(f"{'max_tokens':>10} {'rows':7} {'fill':>5} {'seconds':>8} {'to padded':>10}")
    for (kind, budget), steps in taken.items():
        fill, seconds = (statistics.median(of) for of in ([s.fill for s in steps], [s.seconds for s in steps]))
        print(f"{budget:10,} {kind:7} {fill:5.2f} {seconds:8.3f} {_ratio(taken['padded', budget], steps):10.2f}")
    best = {
        kind: min((key for key in taken if key[0] == kind), key=lambda k: _median(taken[k]))
        for kind in ("padded", "free")
    }
    ratio = _ratio(taken[best["padded"]], taken[best["free"]])
    print(f"each at its best budget ({best['padded'][1]:,}, {best['free'][1]:,}): {ratio:.2f} times as fast")
    off = max(
        abs(one.loss - steps[0].loss) / steps[0].loss for steps in zip(*taken.values(), strict=True) for one in steps
    )
    same = all(one.data == steps[0].data for steps in zip(*taken.values(), strict=True) for one in steps)
    print(f"digests {'equal' if same else 'DIFFER'}, losses within {off:.0e}")


def _median(steps: list[Step]) -> float:
    return statistics.median(step.seconds for step in steps)


def _ratio(padded: list[Step], steps: list[Step]) -> float:
    return statistics.median(a.seconds / b.seconds for a, b in zip(padded, steps, strict=True))


def _run(kind: str, options: argparse.Namespace) -> Any:
    """A run of one rank, built."""
    from launcher import rank_training
    from launcher.config import load
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    free = str(kind == "free").lower()
    text = RECIPE.format(name=kind, free=free, dropout=options.dropout, precision=options.precision)
    Path(f"{kind}.yaml").write_text(text, encoding="utf-8")
    made = run_setup.create(
        run_setup.validate(load.recipe(f"{kind}.yaml", ["strategy=single"]), load.cluster("local").value, 1)
    )
    group = process_group.connect(process_group.RankInfo(), "cpu")
    return rank_training.build(made, group, StopMonitor(), None, workers=0)[0]


def _step(run: Any, budget: int, number: int) -> Step:
    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    batch = replace(run.batches.dataset, max_tokens=budget)[number]
    begin = time.perf_counter()
    record = loop.step(run, batch, sync_step_info(run.process, batch), begin)
    return Step(time.perf_counter() - begin, record["loss"], record["fill"], record["data"])


if __name__ == "__main__":
    main()
