"""Preparing a large corpus: tokens/s and memory beside the way of the run_mlm example of transformers.

    python benchmarks/prepare.py [--bytes 2e9] [--peer-bytes 2e8] [--processes 2]

The corpus is made from the docstrings of the installed packages: sentences in new orders, with other numbers and a
share of new words, so that its vocabulary goes on growing as that of natural text does. Both sides read the same JSON
lines with the same tokenizer, in the same number of processes; the peer does what run_mlm.py does: `datasets.map` with
the tokenizer, then `datasets.map` with group_texts. `--peer-bytes`: it is given so much of the corpus.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTH = 128

PEER = """
import sys, json
from itertools import chain
from datasets import load_dataset
from transformers import AutoTokenizer
file, folder, processes, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(folder)
raw = load_dataset("json", data_files=file, split="train", cache_dir=sys.argv[5])

def tokenize(examples):
    return tokenizer(examples["text"], return_special_tokens_mask=True)

def group(examples):
    joined = {name: list(chain(*lists)) for name, lists in examples.items()}
    total = len(joined["input_ids"]) // length * length
    return {name: [tokens[i : i + length] for i in range(0, total, length)] for name, tokens in joined.items()}

import time
begin = time.perf_counter()
tokenized = raw.map(tokenize, batched=True, num_proc=processes, remove_columns=["text"])
grouped = tokenized.map(group, batched=True, num_proc=processes)
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "tokens": length * len(grouped)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=2e9)
    parser.add_argument("--peer-bytes", type=float, default=2e8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="launcher-prepare-", dir=options.folder) as folder:
        _compare(Path(folder), options)


def _compare(folder: Path, options: argparse.Namespace) -> None:
    whole, part = folder / "corpus.jsonl", folder / "part.jsonl"
    write(whole, int(options.bytes))
    write(part, int(options.peer_bytes))
    environment = {**os.environ, "LAUNCHER_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    tokenizer = _tokenizer(folder, environment)
    print(f"{'':24} {'MB':>6} {'tokens':>12} {'seconds':>8} {'tokens/s':>10} {'largest process, MiB':>21}", flush=True)
    small = _ours(part, tokenizer, folder, options.processes, environment)
    _row("launcher prepare", part, *small)
    peer = [
        sys.executable,
        "-c",
        PEER,
        str(part),
        str(tokenizer),
        str(options.processes),
        str(LENGTH),
        str(folder / "hf"),
    ]
    before = time.perf_counter()
    said = json.loads(_run(peer, environment)[0].splitlines()[-1])
    _row("map + group_texts", part, said["tokens"], said["seconds"], None)
    print(f"{'':24} (with its start and reading: {time.perf_counter() - before:.1f} s)")
    ours = _ours(whole, tokenizer, folder, options.processes, environment)
    _row("launcher prepare", whole, *ours)
    peer_rate = said["tokens"] / said["seconds"]
    print(f"ratio, same text: {small[0] / small[1] / peer_rate:.2f}; whole corpus: {ours[0] / ours[1] / peer_rate:.2f}")


def write(file: Path, size: int, seed: int = 0) -> None:
    """JSON lines of some `size` bytes: documents of 2 to 30 sentences. The same each time for the same packages."""
    from launcher.data import Part, python_docs

    config = python_docs.Config(packages=["stdlib", "transformers", "torch"])
    texts = [row["text"] for row in python_docs.rows(config, ("text",), "corpus", Part())]
    sentences = [s for text in texts for s in re.split(r"(?<=[.!?:])\s+", text) if 20 < len(s) < 400]
    draw, written = random.Random(seed), 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            document = " ".join(_varied(draw.choice(sentences), draw) for _ in range(draw.randint(2, 30)))
            written += out.write(json.dumps({"text": document}) + "\n")


def _varied(sentence: str, draw: random.Random) -> str:
    """Other numbers; and now and then a word that no text has had, made of two."""
    if any(character.isdigit() for character in sentence):
        sentence = re.sub(r"\d+", lambda _: str(draw.randint(0, 9999)), sentence)
    if draw.random() < 0.15:
        words = sentence.split(" ")
        at, other = draw.randrange(len(words)), draw.choice(words)
        words[at] = words[at][: draw.randint(2, 6)] + other[-draw.randint(2, 6) :]
        sentence = " ".join(words)
    return sentence


def _tokenizer(folder: Path, environment: dict[str, str]) -> Path:
    """A WordPiece of 30,000 tokens, trained from a piece of such text."""
    write(folder / "sample.jsonl", 20_000_000, seed=1)
    recipe = _recipe(folder, folder / "sample.jsonl", "{kind: train, vocab_size: 30000}", "sample")
    made = Path(_run(["launcher", "prepare", str(recipe)], environment)[0].rsplit("; ", 1)[1].strip())
    return made / "tokenizer"


def _recipe(folder: Path, file: Path, tokenizer: str, name: str) -> Path:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        f"name: {name}\nmodel: {{kind: config, type: bert}}\ntokenizer: {tokenizer}\n"
        f"data: {{train: {{kind: jsonl, path: {file}}}, max_length: {LENGTH}}}\ntask: {{kind: mlm}}\n"
        "train: {global_batch: 32, steps: 10}\noptimizer: {kind: adamw, lr: 1.0e-4}\n"
    )
    return recipe


def _ours(
    file: Path, tokenizer: Path, folder: Path, processes: int, environment: dict[str, str]
) -> tuple[int, float, float]:
    """Tokens, seconds from start to end of the command, and MiB of the largest process."""
    recipe = _recipe(folder, file, f"{{kind: pretrained, name: {tokenizer}}}", file.stem)
    command = ["launcher", "prepare", str(recipe), "--processes", str(processes)]
    begin = time.perf_counter()
    told, peak = _run(command, environment)
    seconds = time.perf_counter() - begin
    facts = json.loads((Path(told.rsplit("; ", 1)[1].strip()) / "facts.json").read_text())
    return facts["tokens"]["train"], seconds, peak


def _run(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Standard output, and MiB of the largest process among it and those that it started."""
    wrapped = [sys.executable, "-c", _WRAPPER, *command]
    done = subprocess.run(wrapped, env={**environment, "COLUMNS": "10000"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    out, _, peak = done.stdout.rstrip().rpartition("\n")
    return out, int(peak) / 1024


_WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code)
"""


def _row(name: str, file: Path, tokens: int, seconds: float, peak: float | None) -> None:
    told = "" if peak is None else f"{peak:,.0f}"
    size = file.stat().st_size / 1e6
    print(f"{name:24} {size:>6,.0f} {tokens:>12,} {seconds:>8.1f} {tokens / seconds:>10,.0f} {told:>21}", flush=True)


if __name__ == "__main__":
    main()
