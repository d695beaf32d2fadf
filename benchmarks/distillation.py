"""A student with a teacher beside the same student alone.

On the docstrings of the standard library: a teacher is pretrained by masked language modelling, then a student a
fraction of its size, for each seed once alone and once with the teacher: the same samples, masks, first weights and
number of steps. What is told is each one's loss on held-out docstrings (nats a masked token, of the labels alone) and
its accuracy; the teacher's own stand above them. Minutes on two cores.

Seen over three seeds: alone 5.480 and 0.132, with the teacher (5.123 and 0.186) 5.379 and 0.161, each seed alike. With
150 steps a student has hardly left the words' frequencies, and softened by 2 it is then the worse for its teacher
(6.027 beside 5.998): hence 500 steps and a temperature of 1.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import _workplace
from benchmarks.pairs import Comparison

RECIPE = """
name: {name}
seed: {seed}
model: {{kind: config, type: bert, hidden_size: {hidden}, num_hidden_layers: {layers}, num_attention_heads: {heads},
         intermediate_size: {inner}, max_position_embeddings: 64, dropout: 0.0, attention: eager}}
tokenizer: {tokenizer}
data: {{train: {{kind: python_docs}}, validation: {{fraction: 0.05}}, max_length: 64}}
task: {task}
train: {{global_batch: 64, steps: {steps}, precision: bf16, max_tokens: 2048}}
optimizer: {{kind: adamw, lr: {lr}, weight_decay: 0.01}}
schedule: {{kind: linear, warmup: 0.1}}
sinks: [jsonl]
"""
TEACHER = {"hidden": 192, "layers": 3, "heads": 3, "inner": 768, "lr": 1.0e-3}
STUDENT = {"hidden": 64, "layers": 2, "heads": 2, "inner": 256, "lr": 3.0e-3}
TAUGHT = (
    "{{kind: distillation, task: {{kind: mlm}}, teacher: {{run: runs/teacher}}, temperature: {temperature}, "
    "alpha: {alpha}}}"
)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500, help="of the student")
    parser.add_argument("--teacher-steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--folder", help="to keep the runs in; else a temporary one")


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("distillation") as temporary:
        folder = Path(options.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            _compare(options)
    return []


def _compare(options: argparse.Namespace) -> None:
    train = "{kind: train, vocab_size: 2048}"
    learnt = _run("teacher", 0, "{kind: mlm}", train, options.teacher_steps, TEACHER, options.ranks)
    print(f"{'':24} {'loss':>7} {'accuracy':>9}")
    _tell("teacher", learnt)
    taught = TAUGHT.format(temperature=options.temperature, alpha=options.alpha)
    same = "{kind: pretrained, name: runs/teacher/tokenizer}"
    found: dict[str, list[dict[str, float]]] = {"alone": [], "with the teacher": []}
    for seed in range(1, options.seeds + 1):
        for how, task in zip(found, ("{kind: mlm}", taught), strict=True):
            name = f"{how.split()[0]}-{seed}-{options.steps}-{options.temperature}-{options.alpha}"
            found[how].append(_run(name, seed, task, same, options.steps, STUDENT, options.ranks))
            _tell(f"seed {seed}, {how}", found[how][-1])
    for how, each in found.items():
        _tell(f"mean, {how}", {key: statistics.mean(one[key] for one in each) for key in each[0]})


def _tell(what: str, found: dict[str, float]) -> None:
    print(f"{what:24} {found['eval/loss']:7.3f} {found['eval/accuracy']:9.4f}", flush=True)


def _run(
    name: str, seed: int, task: str, tokenizer: str, steps: int, size: dict[str, float], ranks: int
) -> dict[str, float]:
    """The last evaluation of a run, trained unless it is there."""
    Path("recipe.yaml").write_text(
        RECIPE.format(name=name, seed=seed, task=task, tokenizer=tokenizer, steps=steps, **size), encoding="utf-8"
    )
    command = [sys.executable, "-m", "launcher", "run", "recipe.yaml", "--ranks", str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    records = map(json.loads, Path("runs", name, "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if "eval/loss" in record][-1]
