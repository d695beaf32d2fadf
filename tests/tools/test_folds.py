"""`data.folds: K`: a run for each fold, each row validated once, on any layout; and the test set that no run reads."""

import json
import statistics
from pathlib import Path

import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.plan import facts
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.storage import cache_root
from launcher.tools import folds


def lines(file, numbers):
    rows = [{"features": [n / 10, (n * 7) % 13, 1.0], "label": n / 5} for n in numbers]
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(**changes):
    source = {"kind": "jsonl", "path": "rows.jsonl"}
    return support.small(data={"train": source}, **{"train__steps": 3, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output of a cross-validation whose first fold had been begun on another number of ranks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("folds"))
        lines("rows.jsonl", range(60))
        support.write(recipe(data__folds=3, data__test={"fraction": 0.2}))
        one = ["data.folds=null", "data.validation={fold: 0, of: 3}", "name=tiny-fold0"]
        support.launcher("run", "recipe.yaml", *one, "--ranks", 2)
        yield support.launcher("run", "recipe.yaml", "--ranks", 1).stdout


def features(name, side):
    samples = PreparedSamples(cache_root.prepared(facts.of_run(Path("runs", name)).digest), side)
    return sorted(tuple(row["features"].tolist()) for row in samples.rows(range(len(samples))))


def test_each_fold_is_a_run_and_one_that_is_done_is_not_trained_again(trained):
    names = [f"tiny-fold{fold}" for fold in range(3)]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny", *names]
    assert "tiny-fold0: all 3 steps are done" in trained
    held = [features(name, "validation") for name in names]
    test = features(names[0], "test")
    assert [features(name, "test") for name in names] == [test] * 3
    every = [row for own in held for row in own]
    assert len({*every}) == len(every) == 60 - len(test)
    for name, own in zip(names, held, strict=True):
        assert sorted([*features(name, "train"), *own, *test]) == sorted([*every, *test])


def test_mean_and_spread_are_those_of_the_last_evaluations(trained):
    found = json.loads(Path("runs/tiny/folds.json").read_text())
    assert (found["folds"], found["runs"]) == ([0, 1, 2], [f"tiny-fold{fold}" for fold in range(3)])
    values = [support.evaluations(f"runs/tiny-fold{fold}")[3]["eval/mse"] for fold in range(3)]
    assert found["metrics"]["mse"] == {
        "mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values
    }  # fmt: skip
    assert trained.splitlines()[-1] == "3 folds, 0 to 2; in runs/tiny/folds.json"


def test_a_plan_is_that_of_the_first_fold_and_says_so(trained):
    told = support.launcher("plan", "recipe.yaml").stdout
    assert "this is the plan of the first of 3 folds; launcher run recipe.yaml trains tiny-fold0 to tiny-fold2" in told
    assert "held out" in told and "test" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"data__validation": {"fraction": 0.1}},
            "data.validation: each of the 3 folds is the validation data of a run",
        ),
        ({"seeds": 2}, "seeds: 2 seeds of 3 folds each are not supported"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_line(tmp_path, monkeypatch, changes, told):
    monkeypatch.chdir(tmp_path)
    support.write(recipe(data__folds=3, **changes))
    with pytest.raises(UserError, match=told) as found:
        folds.each(load.recipe("recipe.yaml"))
    assert str(found.value).startswith("recipe.yaml:")


def test_other_commands_name_the_way_to_one_fold(trained):
    told = support.launcher("debug", "recipe.yaml", code=2).stderr
    assert "data.folds: only `launcher run` trains all folds (one fold: data.folds=null data.validation=" in told


def test_a_fold_there_is_not_is_refused(trained):
    with pytest.raises(UserError, match=r"there is no fold 3 \(0 to 2\)"):
        load.recipe("recipe.yaml", ["data.folds=null", "data.validation={fold: 3, of: 3}"])


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The same recipe trained without and with a test set of its own. The samples of the latter are spoilt meanwhile,
    so that whoever opens them fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("tested"))
        patch.setenv("LAUNCHER_CACHE", str(folder / "cache"))
        lines("rows.jsonl", range(60))
        lines("test.jsonl", range(50, 90))
        keys = {"data__validation": {"fraction": 0.2}, "evaluate__every": 1, "evaluate__patience": 3}
        support.write(recipe(**keys), "plain.yaml")
        support.write(recipe(**keys, data__test={"kind": "jsonl", "path": "test.jsonl"}, name="tested"), "tested.yaml")
        support.launcher("run", "plain.yaml", "--ranks", 1)
        support.launcher("prepare", "tested.yaml")
        (file,) = (folder / "cache").rglob("test.arrow")
        samples = file.read_bytes()
        file.write_bytes(b"spoilt")
        support.launcher("run", "tested.yaml", "--ranks", 2)
        support.launcher("evaluate", "runs/tested", "--ranks", 1)
        support.launcher("compare", "runs/tested", "runs/tiny")
        yield file, samples


def test_a_test_set_of_its_own_changes_nothing_that_is_trained_and_nothing_of_the_cache(tested):
    support.same_run("runs/tiny", "runs/tested", 1e-5)
    digests = [[one["data"] for one in support.steps(f"runs/{name}").values()] for name in ("tiny", "tested")]
    assert digests[0] == digests[1] and len(digests[0]) == 3
    assert facts.of_run(Path("runs/tiny")).digest == facts.of_run(Path("runs/tested")).digest


def test_only_an_evaluation_of_the_test_set_opens_it(tested):
    """Training, evaluations and a comparison have not noticed that it is spoilt."""
    file, samples = tested
    support.launcher("evaluate", "runs/tested", "--split", "test", "--ranks", 1, code=1)
    file.write_bytes(samples)
    told = support.launcher("evaluate", "runs/tested", "--split", "test", "--ranks", 1).stdout
    assert told.splitlines()[0] == "checkpoint of step 3, test set"
    found = json.loads(Path("runs/tested/report/evaluation-test-3.json").read_text())
    assert found["split"] == "test" and found["metrics"]["eval/mse"] > 0
    assert found["metrics"] != support.evaluations("runs/tested")[3]
    done = support.launcher("evaluate", "runs/tiny", "--split", "test", code=2)
    hint = "add it to the recipe, and train a run of another name"
    assert done.stderr == f"runs/tiny/recipe.yaml: data.test: there is no test set ({hint})\n"


def test_a_test_set_that_has_changed_is_refused(tested):
    text = Path("test.jsonl").read_text()
    Path("test.jsonl").write_text(text + text.splitlines()[-1].replace("1.0]", "2.0]") + "\n")
    told = support.launcher("evaluate", "runs/tested", "--split", "test", code=2).stderr
    assert "data.test: its source has changed since the run began" in told
    Path("test.jsonl").write_text(text)
