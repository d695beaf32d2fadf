"""Run folders as a training writes them, for a report: of any length, with restarts, hangs and any texts."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.plan.facts import Facts

BEGIN = 1_790_000_000.0
HOSTILE = (
    '</td></table><script>document.title = "taken"</script>"\'&amp; $x_$ {{ 7 * 7 }} \u202e\x1b[31m 漢字 ' + "w" * 90
)
"""A text that is markup, a template, mathematics, an escape sequence, and longer than any place for it."""


def write(
    folder: Path, *, steps: int = 400, labels: Sequence[str] = ("few", "many", "some"),
    text: str = "some words of a text", lr: float = 1e-3, restarts: bool = False, seed: int = 0,
    recipe: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """A run of a classifier on four ranks. `restarts`: it was killed, hung, rolled back and started again."""
    (folder / "report").mkdir(parents=True)
    known = recipe or {"name": folder.name, "seed": seed, "optimizer": {"kind": "adamw", "lr": lr}}
    known |= {"task": {"kind": "sequence_classification"}, "evaluate": {"metric": "accuracy"}}
    _json(folder / "recipe.yaml", known)
    plan = {"name": folder.name, "steps": steps, "global_batch": 64, "ranks": 4, "device": "cuda", "strategy": "fsdp"}
    _json(folder / "plan.json", {**plan, "precision": "bf16", "model": text[:60], "parameters": 110_000_000})
    _json(folder / "environment.json", {"python": "3.11.7", "versions": {"torch": "2.13.0", "launcher": "0.1.0"}})
    baseline = {"majority_class": 0.42}
    facts = Facts(
        digest="", vocab_size=9, pad_token_id=0, mask_token_id=0, special_ids=[], labels=list(labels), longest=1,
        samples={}, tokens={}, baseline=baseline,
    )  # fmt: skip
    (folder / "facts.json").write_text(facts.model_dump_json())
    saved = folder / "checkpoints" / f"step-{steps:08d}"
    saved.mkdir(parents=True)
    _json(saved / "state.json", {"step": steps})
    _json(saved / "COMPLETE", {"format": 1, "files": {"state.json": [13, ""]}})
    metrics(folder, steps, lr, seed)
    ledger(folder, steps, restarts)
    _evaluation(folder, steps, labels, text)
    return folder


def metrics(folder: Path, steps: int, lr: float = 1e-3, seed: int = 0) -> None:
    draw, every = random.Random(seed), max(1, steps // 12)
    with (folder / "metrics.jsonl").open("w") as out:
        for step in range(1, steps + 1):
            part = step / steps
            loss = 0.4 + 2 * math.exp(-6 * part) + draw.gauss(0, 0.08)
            record = {
                "step": step, "loss": loss, "grad_norm": 10 ** (1 - 2 * part + draw.gauss(0, 0.2)),
                "lr": lr * min(part / 0.06, (1 - part) / 0.94), "samples": 64 * step, "tokens": 5000 * step,
                "seconds": round(0.25 * step, 3), "data": "6469831fad20dd56", "skipped": 0, "waited": 0.01 * step,
                "fill": round(0.92 + draw.gauss(0, 0.02), 4), "tokens_per_second": 5000 + draw.gauss(0, 200),
                "mfu": 0.41 + draw.gauss(0, 0.01), "memory_allocated": int((9 + draw.random()) * 2**30),
                "memory_reserved": 12 * 2**30, "goodput": 0.9,
            }  # fmt: skip
            if step % 10 == 0:
                most = 61 + draw.gauss(0, 3)
                record |= {
                    "rank_ms/least": 48.0,
                    "rank_ms/median": 50.0,
                    "rank_ms/most": most,
                    "slowest_rank": step % 3,
                }
            out.write(json.dumps(record) + "\n")
            if step % every == 0:
                scores = {"eval/loss": loss + 0.1 * part, "eval/accuracy": 0.9 - loss / 4, "eval/f1": 0.88 - loss / 4}
                out.write(json.dumps({"step": step, **scores, "eval/f1/few": 0.5}) + "\n")


def ledger(folder: Path, steps: int, restarts: bool) -> None:
    """The ledger and the job log. Each process takes its steps in spans of two seconds."""
    lines, events = list[dict[str, Any]](), list[dict[str, Any]]()
    event = {"job": "by-hand", "start": 0}
    time = BEGIN

    def process(name: str, first: int, last: int, hang: float = 0.0, back: int = 0) -> None:
        nonlocal time
        spent = {"start": 4.0, "prepare": 1.0 if first == 0 else 0.0}
        time += sum(spent.values())
        lines.append({"process": name, "writer": "rank", "time": time, "step": first, "seconds": {**spent}})
        step = first
        while step < last:
            taken = min(8, last - step)
            step += taken
            parts = {"data": 0.01, "compute": 0.21, "communicate": 0.02, "save": 0.005, "evaluate": 0.005}
            for purpose, each in parts.items():
                spent[purpose] = spent.get(purpose, 0.0) + each * taken
            time += 0.25 * taken
            if back and step >= back + 8:
                step, back = back - 8, 0
            line = {"process": name, "writer": "rank", "time": time, "step": step, "saves": step // 100}
            lines.append({**line, "seconds": {**spent}})
        time += hang

    events.append({**event, "event": "started", "step": 0, "ranks": 4, "nodes": ["node1"], "time": time})
    if restarts:
        process("1-a", 0, steps // 2)
        error = "rank 1 was killed by SIGKILL (often the system's out-of-memory killer)"
        events.append(
            {
                **event,
                "event": "restarted",
                "why": "failed",
                "rank": 1,
                "step": steps // 2,
                "error": error,
                "time": time,
            }
        )
        process("2-b", steps // 3, 2 * steps // 3, hang=12.0)
        hang = {
            "event": "hang",
            "rank": 2,
            "stage": "data",
            "step": 2 * steps // 3,
            "seconds": 12.0,
            "action": "restart",
        }
        events.append({**event, **hang, "error": "rank 2 has been in data of step 266 for 12 s", "time": time})
        events.append({**event, "event": "ended", "code": 75, "why": "told", "step": steps // 2, "time": time})
        time += 30.0
        events.append({**event, "event": "started", "step": steps // 2, "ranks": 4, "time": time})
        process("3-c", steps // 2, steps, back=3 * steps // 4)
        spike = {"step": 3 * steps // 4, "first": 3 * steps // 4 - 2, "loss": 9.0, "grad_norm": 50.0}
        _json(folder / "roll_backs.json", {"spikes": [spike]})
    else:
        process("1-a", 0, steps)
    events.append({**event, "event": "ended", "code": 0, "why": "done", "step": steps, "time": time})
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "jobs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))


def _evaluation(folder: Path, steps: int, labels: Sequence[str], text: str) -> None:
    count, draw = len(labels), random.Random(1)
    confusion = [[60 + row if row == column else draw.randint(0, 9) for column in range(count)] for row in range(count)]
    scores = {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 80}
    examples = [
        {"sample": n, "truth": labels[0], "predicted": labels[1], "probability": 0.9, "text": f"{n}: {text}"}
        for n in range(3)
    ]
    report = {"classes": dict.fromkeys(labels, scores), "confusion": confusion, "labels": labels, "examples": examples}
    _json(
        folder / "report" / f"evaluation-{steps}.json", {"step": steps, "metrics": {}, "baseline": {}, "report": report}
    )


def _json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
