"""`launcher compare`: first, last and best evaluations of runs, their differing keys, and baselines."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.plan.facts import Facts
from launcher.tools import compare as tool
from launcher.tools.compare import LESS_IS_BETTER, compare


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that writes a run folder with these evaluations by step, and training records between them."""
    monkeypatch.chdir(tmp_path)

    def make(name, evaluations, **baseline):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        records = [{"step": 1, "loss": 9.0}]
        records += [{"step": s, **{f"eval/{k}": v for k, v in values.items()}} for s, values in evaluations]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        known = {"digest": "", "vocab_size": 9, "pad_token_id": 0, "mask_token_id": 0, "special_ids": []}
        known |= {"labels": [], "longest": 1, "samples": {}, "tokens": {}, "baseline": baseline}
        (folder / "facts.json").write_text(Facts.model_validate(known).model_dump_json(), encoding="utf-8")
        return str(folder)

    return make


@pytest.fixture
def three(run):
    first = {"loss": 8.3312, "perplexity": 4151.2, "accuracy": 0.0002}
    last = {"loss": 4.9911, "perplexity": 147.1, "accuracy": 0.2312}
    before = {"loss": 2.5312, "accuracy": 0.0812, "f1": 0.0211, "f1/email": 0.0}
    tuned = {"loss": 1.2, "accuracy": 0.6, "f1": 0.5}
    random = {"loss": 1.6, "accuracy": 0.4, "f1": 0.3}
    return [
        run("quickstart-pretrain", [(0, first), (400, last)], unigram_entropy=6.3211),
        run("quickstart-finetune", [(0, before), (390, tuned)], majority_class=0.22),
        run("quickstart-from-random", [(0, before), (390, random)], majority_class=0.22),
    ]


def test_a_run_goes_from_its_first_evaluation_to_its_last(three, printed):
    rows = [line.split("  ") for line in printed(lambda console: compare(three, console))]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[:4] == [
        ["run", "steps", "loss", "accuracy", "f1"],
        ["quickstart-pretrain", "400", "8.3312 → 4.9911", "0.0002 → 0.2312"],
        ["quickstart-finetune", "390", "2.5312 → 1.2000", "0.0812 → 0.6000", "0.0211 → 0.5000"],
        ["quickstart-from-random", "390", "2.5312 → 1.6000", "0.0812 → 0.4000", "0.0211 → 0.3000"],
    ]


def test_each_baseline_is_printed_with_its_runs(three, printed):
    assert printed(lambda console: compare(three, console))[4:] == [
        "baseline: unigram entropy 6.3211 (quickstart-pretrain)",
        "baseline: majority class 0.2200 (quickstart-finetune, quickstart-from-random)",
    ]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_keys_have_columns_while_no_number_breaks(run, printed, width):
    metrics = {"loss": 8.3312, "accuracy": 0.5, "f1": 0.25}
    values = [(0, metrics), (9, metrics)]
    runs = [run(name, values) for name in ("one", "two")]
    for folder in runs:
        recipe = {f"key_{n}": f"the value {n} of {folder}" for n in range(8)}
        Path(folder, "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    header, *rows = printed(lambda console: compare(runs, console), width)
    assert [row.count("8.3312 → 8.3312") for row in rows[:2]] == [1, 1]
    assert not any("…" in line for line in (header, *rows))
    named = sum(f"key_{n}" in header for n in range(8))
    assert named == {80: 0, 120: 1, 200: 5}[width]
    assert sum(f"key_{n}" in " ".join(rows) for n in range(named, 8)) == 8 - named


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_and_no_name_is_cut(three, printed, width):
    lines = printed(lambda console: compare(three, console), width)
    assert len(lines) == 6
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)


def test_a_long_name_is_not_cut_even_where_numbers_break(run, printed):
    name = "bert-base-mlm-of-the-third-attempt-with-dropout"
    values = {"loss": 8.3312, "accuracy": 0.5, "f1": 0.25}
    lines = printed(lambda console: compare([run(name, [(0, values), (9, values)])], console))
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith(f"{name}  ")


def test_a_single_evaluation_is_no_change(run, printed):
    lines = printed(lambda console: compare([run("one", [(9, {"loss": 1.5})])], console))
    assert lines[1].split() == ["one", "9", "1.5000"]


def test_the_later_of_two_lines_of_a_step_counts(run, printed):
    evaluations = [(0, {"loss": 4.0}), (5, {"loss": 3.0}), (10, {"loss": 2.0}), (5, {"loss": 2.5}), (10, {"loss": 1.0})]
    lines = printed(lambda console: compare([run("one", evaluations)], console))
    assert "4.0000 → 1.0000" in lines[1]


def test_a_metric_missing_from_the_first_evaluation_has_its_last_value(run, printed):
    evaluations = [(0, {"loss": 4.0}), (5, {"loss": 3.0, "f1": 0.5})]
    lines = printed(lambda console: compare([run("one", evaluations)], console))
    assert lines[1].split() == ["one", "5", "4.0000", "→", "3.0000", "0.5000"]


def test_metrics_of_any_task_are_shown(run, printed):
    evaluations = [(5, {"loss": 4.0, "mse": 2.0, "mae": 1.5, "pearson": 0.5, "mse/x": 1.0})]
    lines = printed(lambda console: compare([run("numbers", evaluations)], console))
    assert lines[0].split() == ["run", "steps", "loss", "mse", "mae"]
    assert lines[1].split() == ["numbers", "5", "4.0000", "2.0000", "1.5000"]


def test_the_best_evaluation_of_a_run_is_reported_where_it_is_not_the_last(in_sorter, printed):
    def best():
        return [line for line in printed(lambda console: compare([in_sorter], console), 120) if line.startswith("best")]

    assert best() == []
    metrics = in_sorter / "metrics.jsonl"
    kept = metrics.read_text()
    try:
        metrics.write_text(kept + json.dumps({"step": 20, "eval/loss": 0.01}) + "\n")
        assert best() == ["best: sorter: loss 0.0100 at step 20"]
        metrics.write_text(kept + json.dumps({"step": 19, "eval/loss": 0.01}) + "\n")
        assert best() == ["best: sorter: loss 0.0100 at step 19, of which no checkpoint is kept"]
    finally:
        metrics.write_text(kept)


@pytest.fixture
def sweep(run):
    """Three runs of one recipe that differ in two keys; the second is best at its last evaluation, the first before."""

    def make(name, lr, batch, accuracies, **more):
        path = run(name, [(10 * n, {"loss": 1.0 - a, "accuracy": a}) for n, a in enumerate(accuracies)])
        recipe = {"name": name, "task": {"kind": "sequence_classification"}, "optimizer": {"kind": "adamw", "lr": lr}}
        recipe |= {"train": {"global_batch": batch, "steps": 20}, "evaluate": {"metric": "accuracy"}, **more}
        (Path(path) / "recipe.yaml").write_text(json.dumps(recipe))
        return path

    return [
        make("a", 1e-3, 32, [0.5, 0.8647, 0.86]),
        make("b", 3e-4, 32, [0.5, 0.7, 0.8675]),
        make("c", 3e-4, 64, [0.5, 0.6, 0.62], model={"kind": "config", "hidden_size": 8}),
    ]


def test_one_best_is_named_over_all_runs_and_the_keys_that_differ_have_columns(sweep, printed):
    lines = printed(lambda console: compare(sweep, console), 120)
    assert lines[0].split("  ")[0] == "run"
    head = [cell.strip() for cell in lines[0].split("  ") if cell.strip()]
    assert head == ["run", "lr", "global_batch", "steps", "loss", "accuracy", "best accuracy"]
    assert lines[1].split()[:4] == ["a", "0.001", "32", "20"]
    assert lines[1].endswith("0.8647 at 10")
    assert [line for line in lines if "best" in line][1:] == [
        "best of 3 runs: b: accuracy 0.8675 at step 20, of which no checkpoint is kept"
    ]


def test_rows_are_sorted_by_the_best_value_of_a_metric(sweep, printed):
    def order(sort):
        lines = printed(lambda console: compare(sweep, console, sort=sort), 120)
        return [line[0] for line in lines[1:4]]

    assert order(None) == ["a", "b", "c"]
    assert order("accuracy") == order("loss") == ["b", "a", "c"]
    with pytest.raises(UserError, match=r"--sort acuracy: no run has this metric \(did you mean accuracy\?\)"):
        order("acuracy")


def test_csv_holds_each_key_and_metric_in_full(sweep, capsys, printed):
    assert printed(lambda console: compare(sweep, console, as_csv=True)) == []
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["optimizer.lr"] for row in rows] == ["0.001", "0.0003", "0.0003"]
    assert [float(row["accuracy"]) for row in rows] == [0.86, 0.8675, 0.62]
    assert [(row["best/accuracy"], row["best/step"]) for row in rows] == [
        ("0.8647", "10"),
        ("0.8675", "20"),
        ("0.62", "20"),
    ]


def test_runs_that_watch_different_metrics_have_no_best_until_one_is_named(sweep, printed):
    file = Path(sweep[0]) / "recipe.yaml"
    file.write_text(file.read_text().replace('{"metric": "accuracy"}', '{"metric": "loss"}'))
    lines = printed(lambda console: compare(sweep, console), 120)
    assert "best: not decided, the runs watch different metrics: accuracy, loss (--sort METRIC)" in lines
    assert any(
        line.startswith("best of 3 runs: b: accuracy")
        for line in printed(lambda console: compare(sweep, console, sort="accuracy"), 120)
    )


@pytest.mark.parametrize("kind", [kind for kind in kinds.available("tasks") if kind != "distillation"])
def test_directions_are_those_of_the_tasks(kind):
    module = kinds.module("tasks", kind)
    for labels in (["O", "B-X"], ["noun", "verb"]):  # the metrics of tags go by their scheme
        facts = Facts(
            digest="", vocab_size=9, pad_token_id=0, mask_token_id=1, special_ids=[0], labels=labels, longest=1,
            samples={"train": 1}, tokens={"train": 1}, baseline={},
        )  # fmt: skip
        directions = module.Task(module.Config.model_construct(reward="builtins:len"), facts).directions()
        assert {name: "min" if name in LESS_IS_BETTER else "max" for name in directions} == directions


def test_a_folder_without_a_run_is_refused(run, printed, tmp_path):
    for name in ("runs/none", str(tmp_path)):
        with pytest.raises(UserError, match=rf"^{name}: no run is there"):
            printed(lambda console, name=name: compare([name], console))


def test_a_run_without_an_evaluation_is_refused(run, printed):
    with pytest.raises(UserError, match=r"^runs/one: no evaluation is in its metrics\.jsonl .*data\.validation"):
        printed(lambda console: compare([run("one", [])], console))


def test_a_checkpoint_has_the_direction_of_its_metric():
    """The code of a user's own task is not imported."""
    wer = {"watched": {"metric": "eval/wer", "value": 0.25}, "evaluation": {"eval/wer": 0.25}}
    score = {"watched": {"metric": "eval/score", "value": -0.5}, "evaluation": {"eval/score": 0.5}}
    whole = [SimpleNamespace(state=state) for state in (wer, score, {})]
    assert tool.metric_directions(whole) == {"wer": "min", "score": "max"}
    made = tool.EvaluatedRun("one", {}, {1: {"wer": 0.5}, 2: {"wer": 0.25}}, {}, frozenset(), {"wer": "min"})
    assert made.best("wer") == (0.25, 2)
