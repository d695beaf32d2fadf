"""Packed rows beside padded ones, and the time that ranks wait for data: `python benchmarks/packed.py [--ranks 2]`.

Texts of lengths as they are in the wild: of a batch of 32 a quarter of the padded positions is filled. The same recipe
runs with `samples: documents` and `samples: packed`, in turn, in fp32 and bf16; digests and losses are compared, and
what is told is the median of the runs' tokens/s without their first steps. `max_tokens` cuts padded micro-batches by
length, which is a remedy of its own: it is told too. Rows without padding are measured by padding_free.py.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="launcher-packed-") as folder:
        os.chdir(folder)
        os.environ["LAUNCHER_CACHE"] = f"{folder}/cache"
        _texts(Path("texts.txt"))
        print(f"{'precision':10} {'samples':24} {'fill':>5} {'tokens/s':>9} {'waiting':>8}")
        for precision in ("fp32", "bf16"):
            _compare(precision, options)


def _compare(precision: str, options: argparse.Namespace) -> None:
    kinds = {"documents": "", "documents, max_tokens": ", max_tokens: 2048", "packed": ""}
    runs: dict[str, list[list[dict[str, float]]]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind, more in kinds.items():
            runs[kind].append(
                _run(f"{kind.partition(',')[0]}-{len(more)}-{precision}-{number}", kind, precision, more, options)
            )
    for kind, told in runs.items():
        rate, fill, wait = (statistics.median(f(records) for records in told) for f in (_rate, _fill, _wait))
        print(f"{precision:10} {kind:24} {fill:5.2f} {rate:9,.0f} {wait:8.2%}", flush=True)
    padded, packed = runs["documents"][0], runs["packed"][0]
    off = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(padded, packed, strict=True))
    same = all(a["data"] == b["data"] for a, b in zip(padded, packed, strict=True))
    ratio = statistics.median(map(_rate, runs["packed"])) / statistics.median(map(_rate, runs["documents"]))
    told = f"digests {'equal' if same else 'DIFFER'}, losses within {off:.0e}"
    print(f"{precision:10} packed / documents: {ratio:.2f} times the tokens/s; {told}")


def _run(name: str, kind: str, precision: str, more: str, options: argparse.Namespace) -> list[dict[str, float]]:
    file = Path(f"{name}.yaml")
    samples = kind.partition(",")[0]
    file.write_text(RECIPE.format(name=name, samples=samples, steps=options.steps, precision=precision, more=more))
    command = [sys.executable, "-m", "launcher", "run", str(file), "--ranks", str(options.ranks)]
    subprocess.run(command, check=True, capture_output=True)
    return [json.loads(line) for line in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()]


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

    rows = python_docs.rows(python_docs.Config(), ("text",), "texts", Part())
    words = [word for row in rows for word in row["text"].split()]
    draw = random.Random(1)
    lengths = [min(480, max(8, int(draw.lognormvariate(3.75, 0.8)))) for _ in range(2000)]
    with file.open("w", encoding="utf-8") as out:
        for length in lengths:
            start = draw.randrange(len(words) - length)
            out.write(" ".join(words[start : start + length]) + "\n")


if __name__ == "__main__":
    main()
