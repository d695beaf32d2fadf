"""Evaluation of a classifier beside Trainer.evaluate and a plain loop over sorted samples.

MiniLM with a new head for 11 topics, on Wikipedia introductions of natural lengths up to 256 tokens that are tokenised
before, in one process on the CPU. All compute the loss and the accuracy. Data and weights are fetched with pip.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import _workplace, fetched
from benchmarks.pairs import Comparison, Measurement, Side, alternate

if TYPE_CHECKING:
    import torch

    from launcher.train.training_run import Run

_RECIPE = """
name: evaluate
seed: 17
model: {{kind: pretrained, name: {model}}}
data: {{train: {{kind: jsonl, path: train.jsonl}}, validation: {{kind: jsonl, path: held.jsonl}}, max_length: 256}}
task: {{kind: sequence_classification}}
train: {{global_batch: 32, steps: 1, precision: {precision}, max_tokens: {max_tokens}}}
optimizer: {{kind: adamw, lr: 5.0e-5}}
sinks: []
"""
_BATCH = 32


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=400, help="texts of the evaluation (default: 400)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the process (default: 1)")
    parser.add_argument("--max-tokens", type=int, default=4096, help="the launcher's budget (default: 4096)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")


def measure(options: argparse.Namespace) -> list[Comparison]:
    import torch

    torch.set_num_threads(options.threads)
    with _workplace.temporary_folder("evaluate") as folder:
        fetched.held_out_topics(folder, options.samples)
        minilm = fetched.minilm(folder / "minilm")
        recipe = _RECIPE.format(model=minilm, precision=options.precision, max_tokens=options.max_tokens)
        run = _workplace.built(recipe)
        torch.set_num_threads(options.threads)
        peers = _Peers(run, folder, options.precision)
        sides = [
            Side("launcher", lambda: _ours(run)),
            Side("Trainer.evaluate", peers.trainer),
            Side("sorted loop", peers.sorted_loop),
        ]
        title = f"evaluating MiniLM on {options.samples} texts, {options.precision}, {options.threads} threads"
        return [alternate(title, "samples/s", sides, options.pairs)]


def _measured(begin: float, count: int, loss: float, accuracy: float) -> Measurement:
    return Measurement(count / (time.perf_counter() - begin), {"accuracy": accuracy}, {0: loss})


def _ours(run: "Run") -> Measurement:
    from launcher.train import loop

    begin = time.perf_counter()
    outputs = loop.outputs(run, run.task)
    metrics = run.task.metrics(outputs)
    return _measured(begin, len(outputs["loss"]), metrics["loss"], metrics["accuracy"])


class _Peers:
    """The same weights and samples for the peers, with padding to the longest of a batch of 32."""

    def __init__(self, run: "Run", folder: Path, precision: str):
        import transformers

        assert run.validation is not None
        samples = run.validation.dataset.samples  # type: ignore[attr-defined]
        self._rows: list[dict[str, Any]] = [
            {"input_ids": row["input_ids"].tolist(), "labels": int(row["label"])}
            for row in samples.rows(np.arange(len(samples)))
        ]
        run.engine.unwrapped.save_pretrained(folder / "model")
        auto = transformers.AutoModelForSequenceClassification
        self._model: torch.nn.Module = auto.from_pretrained(folder / "model").eval()
        words = transformers.AutoTokenizer.from_pretrained(folder / "minilm")
        self._collate, self._bf16 = transformers.DataCollatorWithPadding(words), precision == "bf16"
        arguments = transformers.TrainingArguments(
            str(folder / "trainer"), per_device_eval_batch_size=_BATCH, bf16=self._bf16, use_cpu=True,
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        self._trainer = transformers.Trainer(
            self._model, arguments, data_collator=self._collate, eval_dataset=self._rows, compute_metrics=_accuracy
        )
        self._trainer.remove_callback(transformers.PrinterCallback)

    def trainer(self) -> Measurement:
        begin = time.perf_counter()
        metrics = self._trainer.evaluate()
        return _measured(begin, len(self._rows), metrics["eval_loss"], metrics["eval_accuracy"])

    def sorted_loop(self) -> Measurement:
        """Evaluate as a loop that a person writes who thinks of the padding."""
        import torch

        begin, loss, right = time.perf_counter(), 0.0, 0
        rows = sorted(self._rows, key=lambda row: -len(row["input_ids"]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            for first in range(0, len(rows), _BATCH):
                batch = self._collate(rows[first : first + _BATCH])
                labels = batch.pop("labels")
                logits = self._model(**batch).logits.float()
                loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
                right += int((logits.argmax(-1) == labels).sum())
        return _measured(begin, len(rows), loss / len(rows), right / len(rows))


def _accuracy(evaluated: Any) -> dict[str, float]:
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}
