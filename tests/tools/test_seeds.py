"""`seeds: N`: a run per seed, each of which resumes, and the deviation of their metrics."""

import json
import statistics
from pathlib import Path

import pytest
import support

from launcher.storage.run_dir import RunDir
from launcher.tools import seeds


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder and the output of a recipe that was trained with two seeds. The first seed had been trained before."""
    folder = support.corpus(tmp_path_factory.mktemp("seeds"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        support.write(support.mlm(seeds=2, train__steps=2, model__hidden_size=8, model__num_attention_heads=1))
        support.launcher("run", "recipe.yaml", "seeds=1", "name=tiny-seed3")
        yield support.launcher("run", "recipe.yaml", "--ranks", 1).stdout


def test_each_seed_is_a_run_of_its_own_and_one_that_is_done_is_not_trained_again(trained):
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny", "tiny-seed3", "tiny-seed4"]
    assert "tiny-seed3: all 2 steps are done" in trained
    assert [len(support.records(f"runs/tiny-seed{seed}")) for seed in (3, 4)] == [3, 3]
    recipe = Path("runs/tiny-seed4/recipe.yaml").read_text()
    assert "seed: 4\n" in recipe
    assert "seeds: 1\n" in recipe


def test_mean_and_standard_deviation_are_those_of_the_last_evaluations(trained):
    found = json.loads(Path("runs/tiny/seeds.json").read_text())
    assert (found["seeds"], found["runs"]) == ([3, 4], ["tiny-seed3", "tiny-seed4"])
    losses = [support.evaluations(f"runs/tiny-seed{seed}")[2]["eval/loss"] for seed in (3, 4)]
    assert losses[0] != losses[1]
    told = found["metrics"]["loss"]
    assert told == {"mean": statistics.fmean(losses), "std": statistics.stdev(losses), "values": losses}
    assert set(found["metrics"]) == {"loss", "perplexity", "accuracy"}
    assert "the last evaluation of each run\n" in trained
    (line,) = [line.split() for line in trained.splitlines() if line.startswith("loss")]
    assert line[1:] == [f"{cell:.4f}" for cell in (told["mean"], told["std"], min(losses), max(losses))]


def test_the_first_that_fails_ends_the_command_and_starting_again_goes_on(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(support.corpus(tmp_path))
    support.write(support.mlm(seeds=3, train__steps=2, optimizer__lr=1e30, train__abort_after=1))
    support.launcher("run", "recipe.yaml", code=1)
    assert [path.name for path in Path("runs").iterdir()] == ["tiny-seed3"]


def test_resume_needs_a_seed_with_a_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(support.corpus(tmp_path))
    support.write(support.mlm(seeds=2))
    done = support.launcher("run", "recipe.yaml", "--resume", code=2)
    assert "no whole checkpoint to go on from" in done.stderr
    assert not Path("runs").exists()


def test_the_later_of_two_evaluations_of_a_step_counts(tmp_path):
    lines = [{"step": 2, "eval/loss": 1.0}, {"step": 4, "eval/loss": 3.0}, {"step": 4, "loss": 9.0}]
    lines += [{"step": 4, "eval/loss": 2.0}, {"step": 1, "eval/loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert seeds.last_evaluation(RunDir(tmp_path)) == {"loss": 2.0}
