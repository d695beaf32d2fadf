"""Every key that a user may write has a description, which the reference of keys is generated from."""

from typing import Literal

import pytest

from launcher.config import kinds
from launcher.config.base_model import Strict
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin
from launcher.plan.plan import Plan


def _subclasses(base):
    for one in base.__subclasses__():
        yield one
        yield from _subclasses(one)


def _configs():
    for folder in ("data", "models", "sinks", "strategies", "tasks"):
        for kind in kinds.available(folder):
            kinds.module(folder, kind)
    found = {Recipe, Cluster, Plan} | {one for one in _subclasses(Strict) if one.__module__.startswith("launcher.")}
    return sorted(found, key=lambda one: (one.__module__, one.__qualname__))


@pytest.mark.parametrize("config", _configs(), ids=lambda one: f"{one.__module__}.{one.__qualname__}")
def test_every_field_of_every_config_has_a_description(config):
    undescribed = [name for name, field in config.model_fields.items() if not field.description]
    assert not undescribed
    assert config.__doc__


def test_a_field_declared_again_keeps_the_description_of_the_base_class():
    class Own(Plugin):
        """A plug-in of a user."""

        kind: Literal["own"] = "own"
        size: int = 3
        """Size in pixels."""

    assert Own.model_fields["kind"].description == Plugin.model_fields["kind"].description
    assert Own.model_fields["size"].description == "Size in pixels."
    assert Own.model_json_schema()["properties"]["size"]["description"] == "Size in pixels."
    assert Own.model_json_schema()["properties"]["kind"]["description"].startswith("Name of the kind")
