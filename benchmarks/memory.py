"""The most memory that a rank needs under each strategy, measured beside the plan's estimate, on a BERT of 100M
parameters (12 layers of 768, 16,384 words): `python benchmarks/memory.py [--ranks 2,4] [--strategies ...]`.

On a CPU that is the resident set over what the process had before the model was built, with an allocator that gives
back at once what is freed (MALLOC_MMAP_THRESHOLD_): otherwise it is what glibc keeps, too.
"""

import argparse
import os
import tempfile
from pathlib import Path

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
LAYOUTS = (
    "ddp,fsdp:shard=full,fsdp:shard=grad_op,fsdp:shard=hybrid:replicas=2,fsdp:tensor_parallel=2,ddp:tensor_parallel=2,"
    "deepspeed:zero=0,deepspeed:zero=1,deepspeed:zero=2,deepspeed:zero=3"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--strategies", default=LAYOUTS)
    told = parser.parse_args()
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1048576")  # read by the ranks' processes when they start
    from launcher.config import load
    from launcher.tools import parity

    print(f"{'layout':32} {'ranks':>5} {'measured MiB':>12} {'estimate MiB':>12} {'measured / estimate':>20}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("recipe.yaml").write_text(RECIPE, encoding="utf-8")
        cluster, ranks = load.cluster("local").value, [int(n) for n in told.ranks.split(",")]
        for row in parity.parity(parity.load_recipe("recipe.yaml", []), told.strategies, ranks, 2, cluster):
            sizes = f"{row.memory / 2**20:12,.0f} {row.estimate / 2**20:12,.0f}"
            share = f"{row.memory / row.estimate:20.3f}" if row.estimate else row.wrong
            print(f"{row.layout:32} {row.ranks:5} {sizes} {share}", flush=True)


if __name__ == "__main__":
    main()
