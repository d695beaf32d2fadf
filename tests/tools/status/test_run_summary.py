import pytest
import support
from support.job_stories import run, save

from launcher.config import load
from launcher.prepare import run_setup
from launcher.tools.status import run_summary

EVALUATION = {"eval/loss": 0.5, "eval/accuracy": 0.75, "eval/f1/few": 0.5}


@pytest.fixture
def said(tmp_path, printed):
    """A function that returns the summary of a run with checkpoints of these steps and accuracies."""

    def make(accuracies, baseline=None, exports=True):
        folder = run(tmp_path / "a run")
        for step, accuracy in accuracies.items():
            found = {**EVALUATION, "eval/accuracy": accuracy} if accuracy else {}
            watched = {"metric": "eval/accuracy", "value": -accuracy} if accuracy else {}
            save(folder, step, evaluation=found, watched=watched)
        lines = printed(lambda console: run_summary.show(folder, baseline or {}, exports, console), width=500)
        return [" ".join(line.replace(str(tmp_path), "").split()) for line in lines]

    return make


def test_the_best_and_the_last_checkpoint_and_what_comes_next(said):
    assert said({40: 0.875, 66: 0.75}, {"majority_class": 0.5}) == [
        "best checkpoint step 40: loss 0.5, accuracy 0.875 (/a run/checkpoints/step-00000040)",
        "last checkpoint step 66: loss 0.5, accuracy 0.75 (/a run/checkpoints/step-00000066)",
        "next launcher evaluate '/a run'",
        "launcher predict '/a run' --data FILE",
        "launcher export '/a run'",
    ]


def test_a_run_without_an_evaluation_or_a_model_of_transformers(said):
    assert said({66: None}, {"unigram_entropy": 3.0}, exports=False) == [
        "last checkpoint step 66 (/a run/checkpoints/step-00000066)",
        "next launcher predict '/a run' --data FILE",
    ]


def test_no_checkpoint_is_nothing_to_report(said):
    assert said({}) == []


@pytest.mark.parametrize(
    ("metrics", "baseline", "begins"),
    [
        ({"loss": 7.25}, {"unigram_entropy": 6.5}, "loss 7.25 at the end is above 6.5, the unigram entropy"),
        ({"loss": 6.0}, {"unigram_entropy": 6.5}, None),
        ({"accuracy": 0.5}, {"majority_class": 0.75}, "accuracy 0.5 at the end is below 0.75, the share of the most"),
        ({"accuracy": 0.75}, {"majority_class": 0.75}, None),
        ({"mse": 2.0}, {"mse_of_the_mean": 1.0}, "mse 2 at the end is above 1, the variance of the labels"),
        ({"loss": 2.0}, {"mse_of_the_mean": 1.0, "unanswered": 0.5}, None),
    ],
)
def test_a_metric_no_better_than_its_baseline_is_noted(metrics, baseline, begins):
    found = run_summary.notes(metrics, baseline)
    assert len(found) == (begins is not None)
    assert all(note.startswith(begins) for note in found)


def test_a_run_without_validation_is_measured_by_the_texts_it_was_trained_on(workspace, printed):
    """Six steps with a tiny learning rate: the loss stays that of guessing."""
    changes = {"data__validation": None, "optimizer__lr": 1e-9, "sinks": ["jsonl"]}
    made = run_setup.validate(load.recipe(support.write(support.mlm(**changes))), load.cluster("local").value, 1)
    run_setup.create(made).release()
    save(made.folder, 6)
    made.folder.metrics.write_text("".join(f'{{"step": {step}, "loss": 9.5}}\n' for step in range(1, 7)))
    lines = printed(lambda console: run_summary.summarize(made, console), width=500)
    assert lines[-1].startswith("note: loss 9.5 at the end is above ")
    assert "the unigram entropy of the texts" in lines[-1]
