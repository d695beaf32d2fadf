"""Every mistake in every Config is told in this project's own words."""

import inspect
import re

import pytest
from pydantic import ValidationError

from launcher.config import cluster, kinds, messages, recipe
from launcher.config.base_model import Strict

WRONG = (
    None, True, 0, 1, -1, 2**70, 0.5, -0.5, float("nan"), float("inf"), "", "x", "5", "1e-4", "a b\n", "x" * 500,
    [], [1], ["x"], [None, []], {}, {"x": 1}, {"kind": "x"}, {"kind": 3}, {"1x": None}, {"fraction": 7}, (), object(),
)  # fmt: skip
RAW = re.compile(
    r"^(Value|Input|String|List|Tuple|Dictionary|Field|Extra|Unable|Assertion|[A-Za-z]\w+ should)\b|[Vv]alue error"
    r"|pattern|dictionary|tuple|nable to|after validation|function-|instance|pydantic|for model"
)


def _classes():
    modules = [recipe, cluster]
    folders = ("data", "lr_schedules", "models", "optimizers", "schedulers", "sinks", "strategies", "tasks")
    modules += [kinds.module(folder, kind) for folder in folders for kind in kinds.available(folder)]
    found = {one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)}
    return sorted((one for one in found if issubclass(one, Strict)), key=lambda one: (one.__module__, one.__name__))


CLASSES = _classes()


def errors(model, value):
    try:
        model.model_validate(value)
    except ValidationError as error:
        return error.errors()
    return []


@pytest.mark.parametrize("model", CLASSES, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_no_words_of_pydantic_reach_a_user(model):
    assert len(CLASSES) > 50
    for field in model.model_fields:
        for value in WRONG:
            for one in errors(model, {field: value}):
                written = messages.plain(one["type"], one["msg"], one.get("ctx", {}))
                assert not RAW.search(written), (field, value, one)
                assert written == messages.plain(one["type"], written, {}), "once more changes nothing"
    for value in WRONG:
        for one in errors(model, value):
            assert not RAW.search(messages.plain(one["type"], one["msg"], one.get("ctx", {}))), (value, one)


@pytest.mark.parametrize("model", CLASSES, ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_a_boolean_and_a_text_are_no_numbers(model):
    """Of every field of which 1 is right, true and "1" are right too only where it takes booleans or texts as such."""
    for field, info in model.model_fields.items():
        kind = str(info.annotation)
        if not re.search(r"\b(int|float)\b", kind) or re.search(r"\bbool\b", kind):
            continue
        wrong = [True] if re.search(r"\bstr\b|Any", kind) else [True, "1", "1.0"]
        for value in wrong:
            assert [one for one in errors(model, {field: value}) if one["loc"][:1] == (field,)], (field, value)
