"""Steps of a BERT on 1, 2, 4 and 8 ranks of this machine, weak and strong, and under each strategy.

The tables have the time of a step, the bytes that the ranks exchange, and both as the plan's formula predicts them with
the rates of products, copies and links that all ranks reach at once in the same run. A rank has one thread. More ranks
than cores share them: such rows show bytes and overheads, and no speed-up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks import _option_types, _workplace
from benchmarks.pairs import Comparison

if TYPE_CHECKING:
    from launcher.config.types import JsonObject

RECIPE = """
name: scaling
seed: 1
model: {kind: config, type: bert, hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4,
        intermediate_size: 1024, max_position_embeddings: 128, dropout: 0.0}
tokenizer: {kind: train, vocab_size: 8192}
data: {train: {kind: python_docs}, max_length: 128}
task: {kind: mlm, samples: packed}
train: {global_batch: 16, steps: 1000, max_tokens: 2048, padding_free: false}
optimizer: {kind: adamw, lr: 1.0e-4}
"""
DDP: "JsonObject" = {"kind": "ddp"}
STRATEGIES: "list[JsonObject]" = [
    DDP, {"kind": "ddp", "compress": "bf16"}, {"kind": "fsdp"}, {"kind": "fsdp", "shard": "grad_op"},
    {"kind": "ddp", "tensor_parallel": 2}, *({"kind": "deepspeed", "zero": stage} for stage in range(4)),
]  # fmt: skip
HYBRID: "JsonObject" = {"kind": "fsdp", "shard": "hybrid", "replicas": 2}


@dataclass(frozen=True)
class Case:
    """A measurement: strategy, ranks, global batch."""

    strategy: "JsonObject"
    ranks: int
    batch: int


@dataclass(frozen=True)
class Result:
    """Measured and predicted seconds of a step, and bytes of its collectives by operation."""

    seconds: float
    loss: float
    counted: dict[str, int]
    predicted: float
    formula: dict[str, float]


def options(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options."""
    parser.add_argument(
        "--ranks", type=_option_types.numbers, default="1,2,4,8", help="numbers of ranks (default: 1,2,4,8)"
    )
    parser.add_argument("--steps", type=int, default=5, help="steps of a measurement (default: 5)")
    parser.add_argument("--batch", type=int, default=16, help="global batch on one rank, and of strong scaling")


def measure(options: argparse.Namespace) -> Sequence[Comparison]:
    """Print the tables. There is no peer, and so no comparison."""
    worlds = options.ranks
    batch, console = options.batch, Console(highlight=False)
    with _workplace.temporary_folder("scaling"):
        folder = _prepared()
        strong, weak, each = list[Case](), list[Case](), list[Case]()
        for world in worlds:
            plain = DDP if world > 1 else {"kind": "single"}
            strong.append(Case(plain, world, batch))
            weak.append(Case(plain, world, batch * world))
            if world == 2:
                each += [Case(strategy, world, batch) for strategy in STRATEGIES]
            if world == 4:
                each.append(Case(HYBRID, world, batch))
        cases = [*strong, *(case for case in [*weak, *each] if case not in strong)]
        found = dict[str, Result]()
        for world in worlds:
            own = [case for case in cases if case.ranks == world]
            found |= _measured(folder, own, options.steps)
    cores = len(os.sched_getaffinity(0))
    console.print(f"BERT of 4 layers of 256, fp32, one thread a rank, {cores} cores, medians of {options.steps} steps")
    for title, rows in (("strong scaling", strong), ("weak scaling", weak), ("strategies", each)):
        if rows:
            console.print(f"\n[bold]{title}[/]")
            console.print(_table(rows, found))
    return []


def _prepared() -> Path:
    """Return the folder of a run of the recipe, as ranks find it."""
    from launcher.config import load
    from launcher.prepare import run_setup

    Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
    made = run_setup.create(run_setup.validate(load.recipe("recipe.yaml", []), load.cluster("local").value, 1))
    made.release()
    return made.folder.path.absolute()


def _measured(folder: Path, cases: list[Case], steps: int) -> dict[str, Result]:
    """Start the ranks of these cases, which have as many, and return what they measured, beside the prediction."""
    world = cases[0].ranks
    with tempfile.TemporaryDirectory() as store:
        job = {
            "world": world, "store": f"{store}/store", "folder": str(folder), "steps": steps,
            "cases": [{"strategy": case.strategy, "batch": case.batch} for case in cases],
        }  # fmt: skip
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks._scaling_rank", json.dumps({**job, "rank": rank})],
                stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(world)
        ]  # fmt: skip
        try:
            answers = [rank.communicate()[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    answer = json.loads(answers[0].strip().splitlines()[-1])
    rates, measured = answer["rates"], zip(cases, answer["cases"], strict=True)
    links = f", links {rates['links'] / 1e9:.2f} GB/s, {rates['latency'] * 1e6:,.0f} us" if world > 1 else ""
    print(f"{world} ranks: {rates['flops'] / 1e9:,.0f} GFLOP/s, copies {rates['memory'] / 1e9:.1f} GB/s a rank{links}")
    return {repr(case): _beside_prediction(folder, case, one, rates) for case, one in measured}


def _beside_prediction(folder: Path, case: Case, one: "JsonObject", rates: dict[str, float]) -> Result:
    from launcher.config import kinds, plugins
    from launcher.plan import model_requirements, model_spec, step_work
    from launcher.plan.collectives import LinkRates
    from launcher.plan.device_rates import ClusterRates
    from launcher.plan.step_time import DeviceRates
    from launcher.prepare import run_setup

    made = run_setup.load(folder)
    strategy = kinds.module("strategies", case.strategy["kind"]).Config.model_validate(case.strategy)
    train = made.recipe.train.model_copy(update={"global_batch": case.batch})
    recipe = made.recipe.model_copy(update={"strategy": strategy, "train": train})
    shape = model_spec.count(recipe, model_requirements.of(recipe, made.facts))
    device = DeviceRates(rates["flops"], rates["memory"], asynchronous=False)
    links = LinkRates(case.ranks, rates["links"], rates["links"], rates["latency"], rates["latency"])
    reached = ClusterRates(device, links, rates["flops"])
    predicted = step_work.step_time(recipe, shape, made.facts, case.ranks, reached)
    step, formula = step_work.of_rank(recipe, made.facts, case.ranks), dict[str, float]()
    for collective in plugins.strategy(strategy).collectives(shape, step) if case.ranks > 1 else ():
        formula[collective.operation] = formula.get(collective.operation, 0.0) + collective.size
    counted = {name: count["size"] for name, count in one["collectives"].items()}
    assert predicted is not None
    return Result(one["seconds"], one["loss"], counted, predicted.total, formula)


def _table(cases: Sequence[Case], found: dict[str, Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("strategy")
    for name in ("ranks", "batch", "step ms", "predicted", "ratio", "samples/s", "MB", "formula"):
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        result = found[repr(case)]
        table.add_row(
            ":".join([str(case.strategy["kind"]), *(f"{k}={v}" for k, v in case.strategy.items() if k != "kind")]),
            str(case.ranks), str(case.batch), f"{result.seconds * 1e3:,.0f}", f"{result.predicted * 1e3:,.0f}",
            f"{result.predicted / result.seconds:.2f}", f"{case.batch / result.seconds:,.1f}",
            f"{sum(result.counted.values()) / 1e6:,.1f}", f"{sum(result.formula.values()) / 1e6:,.1f}",
        )  # fmt: skip
    return table
