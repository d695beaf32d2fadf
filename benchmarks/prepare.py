"""Preparing a corpus, beside `map` and `group_texts` of the run_mlm example of transformers.

The corpus is made from the docstrings of the installed packages: sentences in new orders, with other numbers and a
share of new words, so that its vocabulary goes on growing as that of natural text does. Both sides read the same JSON
lines with the same tokenizer, in the same number of processes. `prepare` includes the start and end of both commands;
the peer's ends when its data set is on disk.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Measurement, Side, alternate

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

tokenized = raw.map(tokenize, batched=True, num_proc=processes, remove_columns=["text"])
grouped = tokenized.map(group, batched=True, num_proc=processes)
print(json.dumps({"tokens": length * len(grouped)}))
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bytes", type=float, default=1e8, help="of the corpus (default: 10^8)")
    parser.add_argument("--processes", type=int, default=2, help="of each side (default: 2)")
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    parser.set_defaults(pairs=3)


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("prepare", options.folder, cache=True) as folder:
        os.environ |= {"HF_HOME": str(folder / "hf"), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        corpus = folder / "corpus.jsonl"
        write(corpus, int(options.bytes))
        words = _tokenizer(folder)
        sides = [
            Side("launcher prepare", lambda: _ours(corpus, words, folder, options.processes)),
            Side("map, group_texts", lambda: _theirs(corpus, words, folder, options.processes)),
        ]
        title = f"preparing {options.bytes / 1e6:,.0f} MB of text, {options.processes} processes, whole commands"
        return [alternate(title, "tokens/s", sides, options.pairs, warm_up=0)]


def write(file: Path, size: int, seed: int = 0) -> None:
    """JSON lines of some `size` bytes: documents of 2 to 30 sentences. The same each time for the same packages."""
    from launcher.data import Part, python_docs

    config = python_docs.Config(packages=["stdlib", "transformers", "torch"])
    rows = python_docs.Source(config).rows(("text",), "corpus", Part())
    texts = [str(row["text"]) for row in rows if isinstance(row, dict)]
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


def _tokenizer(folder: Path) -> Path:
    """A WordPiece of 30,000 tokens, trained from a piece of such text."""
    write(folder / "sample.jsonl", 20_000_000, seed=1)
    recipe = _recipe(folder, folder / "sample.jsonl", "{kind: train, vocab_size: 30000}", "sample")
    made = Path(_run([*_LAUNCHER, "prepare", str(recipe)])[0].rsplit("; ", 1)[1].strip())
    return made / "tokenizer"


def _recipe(folder: Path, file: Path, tokenizer: str, name: str) -> Path:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        f"name: {name}\nmodel: {{kind: config, type: bert}}\ntokenizer: {tokenizer}\n"
        f"data: {{train: {{kind: jsonl, path: {file}}}, max_length: {LENGTH}}}\ntask: {{kind: mlm}}\n"
        "train: {global_batch: 32, steps: 10}\noptimizer: {kind: adamw, lr: 1.0e-4}\n"
    )
    return recipe


def _ours(file: Path, words: Path, folder: Path, processes: int) -> Measurement:
    """Prepare the corpus by `launcher prepare`, as for the first time."""
    recipe = _recipe(folder, file, f"{{kind: pretrained, name: {words}}}", file.stem)
    begin = time.perf_counter()
    output, peak = _run([*_LAUNCHER, "prepare", str(recipe), "--processes", str(processes)])
    seconds = time.perf_counter() - begin
    made = Path(output.rsplit("; ", 1)[1].strip())
    tokens = json.loads((made / "facts.json").read_text(encoding="utf-8"))["tokens"]["train"]
    shutil.rmtree(made)
    return Measurement(tokens / seconds, {"seconds": seconds, "MiB": peak})


def _theirs(file: Path, words: Path, folder: Path, processes: int) -> Measurement:
    """Prepare the corpus as run_mlm does, as for the first time."""
    begin = time.perf_counter()
    cache = folder / "hf"
    output, peak = _run([sys.executable, "-c", PEER, *map(str, (file, words, processes, LENGTH, cache))])
    seconds = time.perf_counter() - begin
    shutil.rmtree(cache)
    tokens = json.loads(output.splitlines()[-1])["tokens"]
    return Measurement(tokens / seconds, {"seconds": seconds, "MiB": peak})


def _run(command: list[str]) -> tuple[str, float]:
    """Return the standard output of a command, and the MiB of the largest process among it and those it started."""
    wrapped = [sys.executable, "-c", _WRAPPER, *command]
    done = subprocess.run(wrapped, env={**os.environ, "COLUMNS": "10000"}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    out, _, peak = done.stdout.rstrip().rpartition("\n")
    return out, int(peak) / 1024


_LAUNCHER = (sys.executable, "-m", "launcher")
_WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code)
"""
