"""Checks of what a run reports and leaves: a micro-batch that does not fit, metrics, predictions, an export."""

import json
import subprocess
import sys

from benchmarks.gpu import training
from benchmarks.gpu.harness import Figures, Machine, Mismatch

_TOLERANCE = 1e-4


def too_many_tokens(machine: Machine) -> Figures:
    """Ask for far too large micro-batches: the plan refuses them; where the plan is deceived about the memory, the run
    ends with one sentence that names `train.max_tokens`."""
    keys = ["train.global_batch=65536", "train.max_tokens=33554432", "train.steps=2"]
    small = [*training.SMALL[:4], "cluster.memory_per_device=8"] if machine.rehearses else []
    refused = training.run(machine, "bert-base", *small, *keys, "name=refused", code=2).stderr
    figures: Figures = {"plan": _lines(refused)}
    if "train.max_tokens" not in refused:
        raise Mismatch("the plan's refusal does not propose train.max_tokens", figures)
    if machine.rehearses:
        return figures
    ended = training.run(machine, "bert-base", *keys, "name=too-large", "cluster.memory_per_device=1000000", code=1)
    figures["run"] = sentence = failure_of(ended.stderr)
    if "ran out of memory" not in sentence or "train.max_tokens" not in sentence:
        raise Mismatch("the failure is not one sentence that names train.max_tokens", figures)
    return figures


def failure_of(stderr: str) -> str:
    """Return the line in which a run reports its failure, after the plan; empty: there is none."""
    return next((line for line in stderr.splitlines() if line.startswith("rank 0 failed")), "")


def evaluate_predict_export(machine: Machine) -> Figures:
    """Compare metrics, predictions and an export's logits with those of the CPU."""
    keys = ["train.steps=20", "name=results"]
    training.run(machine, "classification", *keys)
    metrics = [_metrics(machine, device) for device in (machine.kind, "cpu")]
    difference = max(abs(metrics[0][name] - metrics[1][name]) for name in metrics[1])
    if difference > _TOLERANCE:
        raise Mismatch(f"metrics differ by {difference:.1e} from the CPU's", {"metrics": metrics})
    rows = machine.folder / "rows.jsonl"
    texts = [json.dumps({"text": text}) + "\n" for text in ("Return the current event loop.", "Parse a document.")]
    rows.write_text("".join(texts), encoding="utf-8")
    predicted = training.launcher(machine, "predict", "runs/results", "--data", str(rows)).stdout
    training.launcher(machine, "export", "runs/results", "--to", "export")
    labels = [json.loads(line)["label"] for line in predicted.strip().splitlines()]
    exported = _exported_labels(machine, [json.loads(text)["text"] for text in texts])
    if labels != exported:
        raise Mismatch(f"predictions {labels}, of the export {exported}")
    return {"difference of metrics": difference, "labels": labels}


def _metrics(machine: Machine, device: str) -> dict[str, float]:
    """Return the metrics of the run on a device."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, "-m", "launcher", "evaluate", "runs/results", "--ranks", "1", "--json"]
    environment = training.environment() | hidden
    ended = subprocess.run(command, cwd=machine.folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Mismatch(f"evaluate on {device}: {' '.join(ended.stderr.split())[-400:]}")
    return {name: value for name, value in json.loads(ended.stdout).items() if isinstance(value, float)}


def _exported_labels(machine: Machine, texts: list[str]) -> list[str]:
    import torch
    import transformers

    folder = machine.folder / "export"
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**words(texts, return_tensors="pt", padding=True)).logits
    return [model.config.id2label[number] for number in logits.argmax(-1).tolist()]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][:6]
