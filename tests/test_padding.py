"""A sample's loss, metrics and prediction know nothing of its neighbours, also for models that see padding.

With real starts of one and two ranks: nothing else shows that training, evaluation and prediction all share a
micro-batch between samples of one length alone. Takes about a minute.
"""

import json
import random
from pathlib import Path

import pytest
import support

WIDTH = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "dropout": 0.0}
MODELS = {
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "dropout": 0.0},  # pools the last position
    "fnet": WIDTH,  # takes no mask
    "convbert": {**WIDTH, "num_attention_heads": 2, "embedding_size": 16},  # convolves over neighbouring positions
}


@pytest.fixture
def rows(workspace):
    draw = random.Random(3)
    texts = [" ".join(draw.choices(support.WORDS, k=draw.randint(1, 14))) for _ in range(48)]
    lines = [json.dumps({"text": text, "label": "yes" if len(text) % 2 else "no"}) for text in texts]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    return texts


@pytest.mark.parametrize("type_", sorted(MODELS))
def test_layouts_and_neighbours_change_nothing(rows, type_):
    recipe = support.classification(
        "wide",
        model={"kind": "config", "type": type_, **MODELS[type_]},
        tokenizer={"kind": "train", "vocab_size": 120},
        data={"train": {"kind": "jsonl", "path": "rows.jsonl"}, "validation": {"fraction": 0.3}, "max_length": 16},
        train={"global_batch": 8, "steps": 3, "precision": "fp64"},
        evaluate={"every": 3},
        sinks=["console", "jsonl"],
    )
    file = support.write(recipe)
    done = support.launcher("run", file, "--ranks", 1, "train.max_tokens=256")
    assert "padding changes its outputs, so a micro-batch has samples of one length" in done.stdout + done.stderr
    support.launcher("run", file, "--ranks", 2, "name=narrow", "train.max_tokens=16")
    support.same_run("runs/wide", "runs/narrow", relative=1e-9)
    one, other = (support.evaluations(f"runs/{name}")[3] for name in ("wide", "narrow"))
    assert one == pytest.approx(other, rel=1e-9)
    together = predictions("rows.jsonl")
    for number in (0, 1, 2):
        Path("one.jsonl").write_text(json.dumps({"text": rows[number]}) + "\n")
        (alone,) = predictions("one.jsonl")
        assert alone["label"] == together[number]["label"]
        assert alone["probability"] == pytest.approx(together[number]["probability"], abs=1e-5)


def predictions(data):
    return list(map(json.loads, support.launcher("predict", "runs/wide", "--data", data).stdout.splitlines()))
