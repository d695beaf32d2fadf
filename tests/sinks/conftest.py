import pytest

from launcher.sinks import RunInfo

RECIPE = {"name": "tiny", "seed": 3, "model": {"kind": "config", "type": "bert"}, "train": {"global_batch": 12}}


@pytest.fixture
def about(tmp_path, monkeypatch):
    """A run of 6 steps in a folder of its own; anything else of it may be given."""
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "of-wandb"))
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)

    def make(**given):
        known = {
            "name": "tiny", "folder": folder, "recipe": RECIPE, "steps": 6, "start": 0, "seconds": 0.0, "tokens": 0,
            "equation": "12 = 2 ranks x 3 micro-batches x 2 samples", "notes": [],
        }  # fmt: skip
        return RunInfo(**{**known, **given})

    return make


@pytest.fixture
def training():
    """The record of a training step."""

    def make(step):
        return {
            "step": step, "loss": 5.0 - step / 8, "grad_norm": 1.5, "lr": 1e-3, "samples": 12 * step,
            "tokens": 250 * step, "seconds": 0.5 * step, "data": f"{step:016x}",
        }  # fmt: skip

    return make


@pytest.fixture
def evaluation():
    """The record of an evaluation, with a metric by class."""
    return lambda step: {"step": step, "eval/loss": 4.25, "eval/accuracy": 0.75, "eval/f1/few": 0.5}
