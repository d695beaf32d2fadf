"""Optuna's storage through kills, and evaluations that are followed until a run is asked to leave."""

import json
from pathlib import Path

import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.storage import stop_file
from launcher.storage.run_dir import RunDir
from launcher.tools.sweep import local_runs, optuna_study, space, trials
from launcher.tools.sweep.evaluation_follower import EvaluationFollower
from launcher.tools.sweep.record import Record, Sweep

optuna = pytest.importorskip("optuna")
RANGES, _ = space.parse("--optuna", ["lr=log:1e-4:1e-1", "width=int:1:64", "kind=a,[1],null,true"])


def study(folder):
    return optuna_study.Study(folder, "tiny", "min", RANGES, seed=3)


def test_a_trial_that_was_begun_keeps_its_values_and_others_do_not_change(tmp_path):
    """Also after a kill in the middle of a write, which leaves half a line and a lock."""
    (tmp_path / "whole").mkdir()
    one = study(tmp_path / "whole")
    expected = []
    for number in range(3):
        trial, params = one.trial(number)
        expected.append(params)
        trial.study.tell(trial, number)
    _, first = study(tmp_path).trial(0)
    journal = tmp_path / optuna_study.JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"op_code":6,"wor')
    (tmp_path / f"{optuna_study.JOURNAL}.lock").touch()
    trial, again = study(tmp_path).trial(0)
    assert first == again == expected[0]
    trial.study.tell(trial, 0)
    another = study(tmp_path)
    assert another.is_finished(0) and not another.is_finished(1)
    assert another.trial(1)[1] == expected[1]


def test_a_journal_without_its_record_is_refused(workspace):
    recipe = load.recipe(support.write(support.small()))
    trial, _ = study(Path()).trial(0)
    trial.study.tell(trial, 1.0)
    record = Record(name="tiny", method="optuna", metric="mse", direction="min", space=[], seeds=[3])
    here = local_runs.LocalRuns.__new__(local_runs.LocalRuns)  # nothing is trained
    with pytest.raises(UserError, match=r"^optuna\.journal: its trial 0 is not that of sweep\.json \(move \. away\)$"):
        trials.train_optuna(recipe, Sweep(Path(), record), RANGES, 2, here)


class Trial:
    """Prunes at the second report."""

    def __init__(self, reports):
        self.reports = reports

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return len(self.reports) > 1


def add(run, *records):
    with run.metrics.open("a") as out:
        out.writelines(json.dumps(record) + "\n" for record in records)


def test_a_run_is_asked_to_leave_when_it_should_be_pruned(tmp_path):
    run, trial = RunDir(tmp_path), Trial([])
    add(run, {"step": 1, "loss": 2.0}, {"step": 2, "eval/mse": 0.5})
    with EvaluationFollower(trial, run, "mse", set(), 8) as follower:
        support.wait_for(lambda: trial.reports == [(2, 0.5)])
        assert not stop_file.exists(run)
        add(run, {"step": 4, "eval/mse": None}, {"step": 4, "loss": 1.0})
        support.wait_for(lambda: stop_file.exists(run))
    assert follower.pruned and [step for step, _ in trial.reports] == [2, 4]


def test_what_is_reported_already_decides_at_once_and_is_not_reported_again(tmp_path):
    run, trial = RunDir(tmp_path), Trial([(2, 0.5), (4, 0.5)])
    add(run, {"step": 2, "eval/mse": 0.5}, {"step": 4, "eval/mse": 0.5})
    with EvaluationFollower(trial, run, "mse", {2, 4}, 8):
        support.wait_for(lambda: stop_file.exists(run))
    assert len(trial.reports) == 2


def test_the_last_step_comes_too_late(tmp_path):
    run, trial = RunDir(tmp_path), Trial([(2, 0.5)])
    add(run, {"step": 8, "eval/mse": 0.5})
    with EvaluationFollower(trial, run, "mse", set(), 8) as follower:
        support.wait_for(lambda: len(trial.reports) == 2)
    assert not follower.pruned and not stop_file.exists(run)
