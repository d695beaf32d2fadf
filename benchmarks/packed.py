"""Packed rows beside padded ones, and the time that ranks wait for data.

Texts of lengths as they are in the wild: of a batch of 32 a quarter of the padded positions is filled. The same recipe
runs with `samples: packed` and `samples: documents`, in turn, in fp32 and bf16. Rates are those of a run without its
first steps. `max_tokens` cuts padded micro-batches by length. Rows without padding are measured by padding_free.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Measurement, Side, alternate

RECIPE = """
name: {name}
seed: 1
model: {{kind: config, type: bert, hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4,
         intermediate_size: 1024, dropout: 0.0}}
tokenizer: {{kind: train, vocab_size: 8192}}
data: {{train: {{kind: text, path: texts.txt, document: line}}, max_length: 512}}
task: {{kind: mlm, samples: {samples}}}
train: {{global_batch: 32, steps: {steps}, precision: {precision}, padding_free: false{more}}}
optimizer: {{kind: adamw, lr: 1.0e-4}}
sinks: [jsonl]
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="of a run (default: 12)")


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("packed"):
        _texts(Path("texts.txt"))
        return [_compare(precision, options) for precision in ("fp32", "bf16")]


def _compare(precision: str, options: argparse.Namespace) -> Comparison:
    kinds = {"packed": "", "documents": "", "documents, max_tokens": ", max_tokens: 2048"}
    sides = [Side(kind, partial(_run, kind, precision, more, options)) for kind, more in kinds.items()]
    return alternate(f"packed and padded rows in {precision}", "tokens/s", sides, options.pairs, warm_up=0)


def _run(kind: str, precision: str, more: str, options: argparse.Namespace) -> Measurement:
    """Measure a whole run."""
    samples, name = kind.partition(",")[0], f"run-{time.monotonic_ns()}"
    file = Path(f"{name}.yaml")
    file.write_text(RECIPE.format(name=name, samples=samples, steps=options.steps, precision=precision, more=more))
    command = [sys.executable, "-m", "launcher", "run", str(file), "--ranks", str(options.ranks)]
    subprocess.run(command, check=True, capture_output=True)
    lines = Path(f"runs/{name}/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    figures = {"fill": _fill(records), "waiting": _wait(records)}
    return Measurement(_rate(records), figures, {record["step"]: record["loss"] for record in records})


def _rate(records: list[dict[str, float]]) -> float:
    """Tokens a second, from the third step on."""
    return (records[-1]["tokens"] - records[1]["tokens"]) / (records[-1]["seconds"] - records[1]["seconds"])


def _wait(records: list[dict[str, float]]) -> float:
    return (records[-1]["waited"] - records[1]["waited"]) / (records[-1]["seconds"] - records[1]["seconds"])


def _fill(records: list[dict[str, float]]) -> float:
    return statistics.mean(record["fill"] for record in records)


def _texts(file: Path) -> None:
    """2,000 lines of docstrings' words: most are short, some fill all 512 positions."""
    from launcher.data import Part, python_docs

    rows = python_docs.Source(python_docs.Config()).rows(("text",), "texts", Part())
    words = [word for row in rows if isinstance(row, dict) for word in str(row["text"]).split()]
    draw = random.Random(1)
    lengths = [min(480, max(8, int(draw.lognormvariate(3.75, 0.8)))) for _ in range(2000)]
    with file.open("w", encoding="utf-8") as out:
        for length in lengths:
            start = draw.randrange(len(words) - length)
            out.write(" ".join(words[start : start + length]) + "\n")
