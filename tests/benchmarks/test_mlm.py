"""The benchmark of masked language modelling, on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import _training
from benchmarks.pairs import Comparison, Measurement

ROOT = Path(__file__).parents[2]


def test_the_launcher_and_a_plain_loop_have_the_same_losses() -> None:
    """Prove, with real ranks of both, that model, weights, samples, masks and optimiser are the same."""
    command = [sys.executable, "-m", "benchmarks", "mlm", "--model", "tiny", "--precision", "fp32", "--peers", "torch"]
    done = subprocess.run(
        [*command, "--pairs", "2", "--turn", "1", "--json"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["comparisons"]
    assert list(found["medians"]) == ["launcher", "torch DDP"]
    assert [len(values) for values in found["values"].values()] == [2, 2]
    assert min(found["medians"].values()) > 0
    assert found["notes"] == ["the losses of all sides agree within the rounding of bf16 (2^-8)"]
    assert found["loss_differences"]["torch DDP"] < 1e-4  # a loss of about 6


def test_a_peer_with_other_losses_does_not_count() -> None:
    sides = {
        "launcher": [Measurement(9.0, losses={1: 10.0, 2: 9.0})],
        "Trainer": [Measurement(3.0, losses={1: 10.0, 2: 9.03})],
        "torch DDP": [Measurement(3.0, losses={1: 10.0, 2: 9.04})],
        "accelerate": [Measurement(3.0)],
    }
    line = _training.agreement(Comparison("mlm", "tokens/s", True, sides))
    assert line.startswith("LOSSES DIFFER") and line.endswith(": torch DDP, accelerate")
