"""The keys in which recipes differ."""

from hypothesis import given
from hypothesis import strategies as st

from launcher.data import csv
from launcher.tools import recipe_differences

_PLAIN = st.none() | st.booleans() | st.integers(0, 9) | st.just([1, 2])
_MAPS = st.dictionaries(st.sampled_from(["a", "kind"]), _PLAIN, max_size=2)
_RECIPES = st.dictionaries(st.sampled_from(["x", "y", "name"]), _PLAIN | _MAPS, max_size=3)


@given(_RECIPES)
def test_a_recipe_does_not_differ_from_itself(recipe):
    assert recipe_differences.differences({"one": recipe, "two": {**recipe, "name": "other"}}) == {}


@given(_RECIPES, st.integers(), st.integers())
def test_a_changed_value_is_the_only_difference(recipe, one, two):
    found = recipe_differences.differences({"one": {**recipe, "z": {"k": one}}, "two": {**recipe, "z": {"k": two}}})
    assert found == ({} if one == two else {"z.k": {"one": str(one), "two": str(two)}})


def test_kinds_of_a_map_and_no_map():
    recipes = {
        "none": {"model": {"adapter": None}},
        "small": {"model": {"adapter": {"kind": "lora", "r": 8}}},
        "large": {"model": {"adapter": {"kind": "lora", "r": 16}}},
    }
    assert recipe_differences.differences(recipes) == {
        "model.adapter": {"none": "", "small": "lora", "large": "lora"},
        "model.adapter.r": {"small": "8", "large": "16"},
    }


def test_a_key_of_one_kind_alone_is_no_difference_beside_that_of_the_kind():
    recipes = {"one": {"schedule": {"kind": "constant"}}, "two": {"schedule": {"kind": "linear", "floor": 0.1}}}
    assert list(recipe_differences.differences(recipes)) == ["schedule.kind"]


def test_null_is_not_an_empty_text():
    assert recipe_differences.differences({"one": {"a": None}, "two": {"a": ""}}) == {"a": {"one": "", "two": '""'}}


def test_a_source_shows_all_its_keys():
    """Also keys that the name of the prepared folder omits while they have their defaults."""
    sources = {quote: csv.Config(path="a.csv", quote=quote) for quote in ("none", '"')}
    dumped = {str(quote): {"train": config.model_dump(mode="json")} for quote, config in sources.items()}
    assert recipe_differences.differences(dumped) == {"train.quote": {"none": "", '"': '"'}}
    identities = [config.model_dump(mode="json", context={"identity": True}) for config in sources.values()]
    assert ["quote" in one for one in identities] == [True, False]


def test_a_key_is_short_where_that_is_unambiguous():
    assert recipe_differences.short(["optimizer.lr", "task.kind", "checkpoint.every", "evaluate.every"]) == [
        "lr", "task.kind", "checkpoint.every", "evaluate.every",
    ]  # fmt: skip
