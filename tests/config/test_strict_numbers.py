"""Numbers and booleans as YAML has them."""

import pytest
from pydantic import ValidationError

from launcher.config.base_model import Strict
from launcher.plan.facts import Facts


class Inner(Strict):
    type: int = 1


class Outer(Strict):
    count: int = 1
    share: float | None = None
    flag: bool = False
    pair: tuple[float, float] = (0.5, 0.5)
    named: dict[str, float] = {}
    inner: Inner = Inner()
    every: list[int] | str = []


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"count": True}, ("count",)),
        ({"count": "5"}, ("count",)),
        ({"count": 5.5}, ("count",)),
        ({"share": "0.5"}, ("share",)),
        ({"share": False}, ("share",)),
        ({"flag": 1}, ("flag",)),
        ({"flag": "1"}, ("flag",)),
        ({"pair": [True, 0.5]}, ("pair", 0)),
        ({"named": {"a": "1"}}, ("named", "a")),
        ({"inner": {"type": True}}, ("inner", "type")),
    ],
)
def test_what_is_no_number_is_refused(value, path):
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(value)
    assert [one["loc"] for one in raised.value.errors()] == [path]


@pytest.mark.parametrize(
    ("value", "field", "found"),
    [
        ({"count": 1e3}, "count", 1000),
        ({"share": 1}, "share", 1.0),
        ({"share": None}, "share", None),
        ({"flag": "yes"}, "flag", True),
        ({"flag": "off"}, "flag", False),
        ({"pair": [0, 1]}, "pair", (0.0, 1.0)),
        ({"every": "all"}, "every", "all"),
    ],
)
def test_what_is_a_number_is_taken(value, field, found):
    assert getattr(Outer.model_validate(value), field) == found


def test_the_advice_names_the_number_without_its_quotes():
    with pytest.raises(ValidationError, match=r"should be a valid integer \(leave the quotes out: 5\)"):
        Outer.model_validate({"count": "5"})
    with pytest.raises(ValidationError, match="should be a valid integer, not true"):
        Outer.model_validate({"count": True})


def test_keys_of_maps_are_texts_in_a_file_whatever_they_stand_for():
    known = {"digest": "", "vocab_size": 9, "pad_token_id": 0, "mask_token_id": 0, "special_ids": [], "labels": []}
    known |= {"longest": 1, "samples": {}, "tokens": {}, "baseline": {}, "lengths": {"12": 3}}
    assert Facts.model_validate(known).lengths == {12: 3}
