"""Tokens per second, model FLOPs utilisation and memory beside the transformers Trainer; padding-free beside padded."""

import json
import subprocess
import sys

from benchmarks.gpu import training
from benchmarks.gpu.harness import Figures, Machine, Mismatch

_PEERS = {"bert-base": 1.3, "modernbert-base": 1.0, "fine-tune": 2.0}
"""For each recipe the goal: its rate over the Trainer's."""
_MFU = 0.4
"""Goal of model FLOPs utilisation for bert-base at full length."""


def beside_the_trainer(machine: Machine) -> Figures:
    """Train each recipe by `launcher run`, then the same samples by the Trainer. A missed goal is no failure; losses
    that disagree are one."""
    figures: Figures = {}
    for name, goal in _PEERS.items():
        small = training.SMALL if machine.rehearses else ()
        training.run(machine, name, *small, f"name={name}")
        ours = training.records(machine, name)
        theirs = _trainer(machine, name)
        rate = training.tokens_per_second(ours)
        figures[name] = row = {
            "tokens/s": round(rate), "trainer tokens/s": round(theirs["tokens_per_second"]),
            "ratio": round(rate / theirs["tokens_per_second"], 3), "goal": goal,
            "mfu": ours[-1].get("mfu"), "memory": ours[-1].get("memory_allocated"),
            "trainer memory": theirs["memory"], "fill": ours[-1]["fill"],
            "first losses": (ours[0]["loss"], theirs["losses"][0]),
            "last losses": (ours[-1]["loss"], theirs["losses"][-1]),
        }  # fmt: skip
        row["met"] = row["ratio"] >= goal and (name != "bert-base" or (row["mfu"] or 0.0) >= _MFU)
        if abs(ours[-1]["loss"] - theirs["losses"][-1]) > 0.1 * ours[-1]["loss"]:
            raise Mismatch(f"{name}: the losses of both at the last step disagree", figures)
    return figures


def padding_free(machine: Machine) -> Figures:
    """Compare padding-free rows with padded ones: equal digests, losses to rounding, and the rates."""
    small = training.SMALL if machine.rehearses else ()
    _, padded = training.train_here(machine, "fine-tune", *small, "train.padding_free=false", "name=padded")
    _, free = training.train_here(machine, "fine-tune", *small, "train.padding_free=true", "name=padding-free")
    difference = training.compare(free, padded, 2.0**-6, "padding-free")
    rates = [training.tokens_per_second(records) for records in (free, padded)]
    return {
        "difference": difference, "fill": (free[-1]["fill"], padded[-1]["fill"]),
        "tokens/s": [round(rate) for rate in rates], "ratio": round(rates[0] / rates[1], 3),
    }  # fmt: skip


def _trainer(machine: Machine, name: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.gpu.trainer", str(machine.folder / "runs" / name), machine.kind]
    ended = subprocess.run(
        command, cwd=machine.folder, env=training.environment(), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise Mismatch(f"the Trainer on {name}: {' '.join(ended.stderr.split())[-400:]}")
    return json.loads(ended.stdout.strip().splitlines()[-1])
