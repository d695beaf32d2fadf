"""The set-up of a run, and of an evaluation of one that was trained before."""

from pathlib import Path

import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.plan import checks
from launcher.prepare import run_setup


def trained(folder: Path, monkeypatch, **changes) -> Path:
    """A run of the name `tiny` in a folder of its own, which has begun. Its path as another folder names it."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    file = support.write(support.small(data__validation={"fraction": 0.2}, **changes))
    made = run_setup.create(run_setup.validate(load.recipe(file), load.cluster("local").value, 1))
    made.release()
    made.folder.metrics.touch()
    return (folder / made.folder.path).absolute()


def test_an_evaluation_is_of_the_folder_that_is_named_whatever_run_here_has_its_name(tmp_path, monkeypatch):
    theirs = trained(tmp_path / "theirs", monkeypatch)
    mine = trained(tmp_path / "mine", monkeypatch, seed=9)
    (mine / "metrics.jsonl").write_text("damaged\n")
    step = mine / "checkpoints" / "step-00000002"
    step.mkdir(parents=True)
    for name in ("state.json", "COMPLETE"):
        (step / name).write_text("damaged")
    reopened = run_setup.reopen(theirs, 1)
    assert (reopened.folder.path, reopened.plan.folder) == (theirs, str(theirs))
    assert (reopened.recipe.seed, reopened.resume, reopened.plan.resume_from) == (3, None, None)


def test_an_evaluation_needs_no_room_for_a_checkpoint(tmp_path, monkeypatch):
    folder = trained(tmp_path / "run", monkeypatch)
    monkeypatch.setattr(checks, "free_bytes", lambda path: 0)
    with pytest.raises(UserError, match="a checkpoint takes"):
        run_setup.dry_run(load.recipe("recipe.yaml"), load.cluster("local").value, 1)
    assert run_setup.reopen(folder, 1).plan.folder == str(folder)


def test_an_evaluation_of_a_run_whose_data_has_changed_is_refused(tmp_path, monkeypatch):
    folder = trained(tmp_path / "run", monkeypatch)
    facts = folder / "facts.json"
    digest = run_setup.load(folder).facts.digest
    facts.write_text(facts.read_text().replace(digest, "0" * len(digest)))
    with pytest.raises(UserError, match="was trained on other prepared data"):
        run_setup.reopen(folder, 1)
