"""What every sink keeps to: a new one is covered by being there. None needs more than a run folder to write to."""

import pytest
from pydantic import ValidationError

from launcher.config import kinds
from launcher.config.types import Plugin


@pytest.fixture(params=kinds.available("sinks"))
def made(request):
    """A kind's module and its configuration; offline where that is a choice."""
    module = kinds.module("sinks", request.param)
    keys = {"mode": "offline"} if "mode" in module.Config.model_fields else {}
    return module, lambda **more: module.Config.model_validate({"kind": request.param, **keys, **more})


def test_its_configuration_has_the_name_of_its_module_as_kind_and_needs_nothing_else(made):
    module, _ = made
    assert issubclass(module.Config, Plugin)
    assert module.Config().kind == module.__name__.rpartition(".")[2]


def test_it_refuses_a_key_it_does_not_know(made):
    with pytest.raises(ValidationError, match=r"unknown key \("):
        made[1](no_such_key=1)


@pytest.mark.parametrize("finished", [True, False])
def test_it_takes_training_and_evaluation_and_closes(made, about, training, evaluation, finished):
    module, config = made
    sink = module.Sink(config(), about(notes=["a note with [brackets] and 100%"]))
    sink.write(evaluation(0))
    for step in (1, 2):
        sink.write(training(step))
    sink.write(evaluation(2))
    sink.close(finished)


def test_it_goes_on_after_a_resume_and_takes_a_step_twice(made, about, training):
    module, config = made
    for start in (0, 1):
        sink = module.Sink(config(), about(start=start, tokens=250 * start, seconds=0.5 * start))
        for step in (start + 1, start + 2):
            sink.write(training(step))
        sink.close(start == 1)


def test_it_leaves_records_as_they_were(made, about, training):
    module, config = made
    sink, record = module.Sink(config(), about()), training(1)
    sink.write(record)
    sink.close(True)
    assert record == training(1)


def test_it_may_be_closed_before_anything_was_written(made, about):
    module, config = made
    module.Sink(config(), about()).close(False)


def test_it_writes_below_the_run_folder_alone(made, about, training, tmp_path, monkeypatch):
    module, config = made
    monkeypatch.chdir(tmp_path)
    known = about()
    sink = module.Sink(config(), known)
    sink.write(training(1))
    sink.close(True)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and known.folder not in p.parents]
    assert [p for p in outside if "of-wandb" not in p.parts] == []
