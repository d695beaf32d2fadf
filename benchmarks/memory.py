"""The most memory that a rank needs under each strategy, measured beside the plan's trace and estimate.

The model is a BERT of 100M parameters (12 layers of 768, 16,384 words).

On a CPU that is the resident set over what the process had before the model was built, with an allocator that gives
back at once what is freed (MALLOC_MMAP_THRESHOLD_): otherwise it is what glibc keeps, too. The resident set also has
what libraries load and allocate in the first steps. `process` is that part: what a model of 2 layers of 64 needs under
the same layout beyond its own trace. The trace is compared with the rest.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _option_types, _workplace
from benchmarks.pairs import Comparison

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.load import Loaded
    from launcher.config.recipe import Recipe

RECIPE = """
name: memory
seed: 1
model: {kind: config, type: bert, max_position_embeddings: 128, dropout: 0.0}
tokenizer: {kind: train, vocab_size: 16384}
data: {train: {kind: python_docs, packages: [stdlib, numpy, pandas, sympy]}, max_length: 128}
task: {kind: mlm}
train: {global_batch: 4, steps: 3, max_tokens: 128}
optimizer: {kind: adamw, lr: 1.0e-4}
"""
SMALL = [f"model.{name}" for name in ("hidden_size=64", "num_hidden_layers=2", "num_attention_heads=2")]
LAYOUTS = (
    "ddp,fsdp:shard=full,fsdp:shard=grad_op,fsdp:shard=hybrid:replicas=2,fsdp:tensor_parallel=2,ddp:tensor_parallel=2,"
    "deepspeed:zero=0,deepspeed:zero=1,deepspeed:zero=2,deepspeed:zero=3"
)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=_option_types.numbers, default="2,4")
    parser.add_argument("--strategies", default=LAYOUTS)


def measure(options: argparse.Namespace) -> list[Comparison]:
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1048576")  # read by the ranks' processes when they start
    from launcher.config import load
    from launcher.tools import parity

    names = ("measured", "process", "trace", "ratio", "estimate", "ratio")
    print(f"{'layout (MiB)':32} {'ranks':>5}" + "".join(f"{name:>10}" for name in names))
    with _workplace.temporary_folder("memory"):
        Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
        cluster, ranks = load.cluster("local").value, options.ranks
        large, small = (parity.load_recipe("recipe.yaml", overrides) for overrides in ([], SMALL))
        every = (parity.parity(loaded, options.strategies, ranks, 2, cluster) for loaded in (large, small))
        for row, little in zip(*every, strict=True):
            traces = [trace(loaded, row.layout, row.ranks, cluster) for loaded in (large, small)]
            process = little.memory - traces[1]
            cells = [row.memory, process, traces[0], row.estimate]
            sizes = [f"{size / 2**20:10,.0f}" for size in cells]
            sizes.insert(3, ratio(row.memory - process, traces[0]))
            sizes.append(ratio(row.memory, row.estimate))
            print(f"{row.layout:32} {row.ranks:5}" + "".join(sizes), row.wrong, flush=True)
    return []


def trace(loaded: "Loaded[Recipe]", layout: str, ranks: int, cluster: "Cluster") -> int:
    """Return the traced bytes of a layout at their highest, the build included; 0: it cannot be traced."""
    from launcher.prepare import run_setup
    from launcher.tools.memory import memory_trace

    kind, *keys = layout.split(":")
    changed = loaded.override(f"strategy={{kind: {kind}}}", *(f"strategy.{key}" for key in keys))
    plan = memory_trace.traced(run_setup.dry_run(changed, cluster, ranks), run_setup.pinned(changed))
    assert plan.trace is not None
    if plan.trace.problem:
        print(f"{layout}: {plan.trace.problem}")
    return max(sum(plan.trace.purposes.values()), plan.trace.start)


def ratio(measured: int, expected: int) -> str:
    return f"{measured / expected:10.3f}" if expected else f"{'':10}"
