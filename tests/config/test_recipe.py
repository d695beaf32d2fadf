"""What a recipe may say, and which of it decides the trajectory."""

import pytest
import support
from pydantic import ValidationError

from launcher.config.base_model import hint
from launcher.config.recipe import Fraction, Recipe, trajectory
from launcher.config.training import seconds


def recipe(**changes) -> Recipe:
    return Recipe.model_validate(support.mlm(**changes))


@pytest.mark.parametrize(("text", "value"), [("1s", 1), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_a_duration_is_a_number_and_a_unit(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "10", "m", "0m", "1.5h", "-1m", "10 m", "10m ", "10M", "1h30m"])
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


@pytest.mark.parametrize("every", [1, 200, "10m", "auto", "continuous"])
def test_checkpoints_are_made_by_steps_or_by_time(every):
    assert recipe(checkpoint={"every": every}).checkpoint.every == every


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "", "ten", [1], {}])
def test_no_other_interval_is_taken(every):
    with pytest.raises(ValidationError):
        recipe(checkpoint={"every": every})


@pytest.mark.parametrize("length", [{}, {"steps": None, "epochs": None}, {"steps": 6, "epochs": 1}])
def test_a_run_has_steps_or_epochs_and_not_both(length):
    with pytest.raises(ValidationError, match=r"either steps or epochs|steps is given too"):
        recipe(train={"global_batch": 12, **length})


def test_validation_is_a_fraction_or_a_source_of_its_own_or_nothing():
    assert recipe().data.validation == Fraction(fraction=0.15)
    assert recipe(data__validation={"kind": "jsonl", "path": "v.jsonl"}).data.validation.kind == "jsonl"
    assert recipe(data__validation=None).data.validation is None


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_leaves_something_on_both_sides(fraction):
    with pytest.raises(ValidationError):
        recipe(data__validation={"fraction": fraction})


@pytest.mark.parametrize("warmup", [0, 0.06, 0.999, 1, 500])
def test_a_warmup_is_a_fraction_or_whole_steps(warmup):
    assert recipe(schedule={"kind": "linear", "warmup": warmup}).schedule.warmup == warmup


@pytest.mark.parametrize("warmup", [-0.1, 1.5])
def test_no_other_warmup_is_taken(warmup):
    with pytest.raises(ValidationError):
        recipe(schedule={"kind": "linear", "warmup": warmup})


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "warmup_stable_decay"])
def test_a_bare_name_is_a_kind_with_its_defaults(kind):
    assert recipe(schedule=kind).schedule == recipe(schedule={"kind": kind}).schedule


@pytest.mark.parametrize("key", ["algorithm", "unicode"])
def test_a_tokenizer_to_be_trained_lists_what_there_is(key):
    with pytest.raises(ValidationError, match=r"unigram" if key == "algorithm" else r"nfkd"):
        recipe(tokenizer={"kind": "train", "vocab_size": 60, key: "other"})


@pytest.mark.parametrize(("given", "taken"), [({}, 1_000_000), ({"sample": None}, None), ({"sample": 3}, 3)])
def test_a_tokenizer_is_trained_from_a_sample_or_from_all(given, taken):
    assert recipe(tokenizer={"kind": "train", "vocab_size": 60, **given}).tokenizer.sample == taken


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        recipe().train.steps = 7


@pytest.mark.parametrize("name", ["", "-a", ".hidden", "a/b", "..", "a b", "a\n", "ä"])
def test_a_name_is_a_plain_name_of_a_folder(name):
    with pytest.raises(ValidationError):
        recipe(name=name)


def test_a_hint_names_a_close_word_or_lists_all():
    assert hint("stps", ["steps", "epochs"]) == "did you mean steps?"
    kinds = ["sequence_classification", "token_classification", "mlm"]
    assert hint("classification", kinds) == "did you mean sequence_classification or token_classification?"
    assert hint("zzz", ["steps", "epochs"]) == "there are: epochs, steps"


# The trajectory


def flat(**changes) -> dict:
    return trajectory(recipe(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "single"},
        {"checkpoint": {"every": 3, "keep": 7, "memory": 2}},
        {"evaluate": {"every": 3}},
        {"sinks": ["console"]},
        {"train__max_tokens": 512},
        {"train__max_tokens": None},
        {"train__workers": 2},
    ],
)
def test_what_decides_speed_and_report_is_not_of_the_trajectory(changes):
    assert flat(**changes) == flat()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 4}, "seed"),
        ({"train__global_batch": 24}, "train.global_batch"),
        ({"train__steps": 7}, "train.steps"),
        ({"train__precision": "bf16"}, "train.precision"),
        ({"optimizer__lr": 2e-3}, "optimizer.lr"),
        ({"schedule": "linear"}, "schedule.kind"),
        ({"model__hidden_size": 32}, "model.hidden_size"),
        ({"data__max_length": 16}, "data.max_length"),
        ({"data__train__path": "other.txt"}, "data.train.path"),
        ({"data__validation__fraction": 0.2}, "data.validation.fraction"),
        ({"task__mask_rate": 0.3}, "task.mask_rate"),
        ({"tokenizer__vocab_size": 90}, "tokenizer.vocab_size"),
    ],
)
def test_what_decides_what_is_learnt_is_of_the_trajectory(changes, key):
    before, after = flat(), flat(**changes)
    assert key in {k for k in {**before, **after} if before.get(k) != after.get(k)}


def test_every_key_but_those_of_performance_is_of_the_trajectory():
    tops = {key.split(".")[0] for key in flat()}
    assert tops == set(Recipe.model_fields) - {"strategy", "checkpoint", "evaluate", "sinks", "seeds"}
    assert {"train.max_tokens", "train.workers"}.isdisjoint(flat())
