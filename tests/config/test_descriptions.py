"""Every key that a user may write has a description, which the reference of keys is generated from."""

import importlib
import zipfile
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from launcher.config import field_descriptions, kinds
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
    undescribed = set(config.model_fields) - set(field_descriptions.of(config))
    assert not undescribed
    assert config.__doc__


class Base(Strict):
    """A class whose fields have a docstring, an explicit description, and neither."""

    width: int = 1
    """Width in
    pixels."""
    height: int = Field(1, description="Height in lines.")
    """Not this one."""
    depth: int = 1
    # no description
    scale: ClassVar[int] = 1
    """No field."""

    class Inner(Strict):
        """A nested class with a field of the same name."""

        width: int = 2
        """Width of the inner one."""


class Derived(Base):
    """A class that declares fields again, without and with a docstring of its own."""

    width: int = 3
    height: int = 3
    """Height in millimetres."""


class Further(Derived):
    """A class that declares nothing."""


def test_a_description_is_the_explicit_one_else_the_docstring_below_the_field():
    assert field_descriptions.of(Base) == {"width": "Width in\npixels.", "height": "Height in lines."}
    assert field_descriptions.of(Base.Inner) == {"width": "Width of the inner one."}


@pytest.mark.parametrize("config", [Derived, Further])
def test_a_field_without_a_description_has_that_of_the_nearest_base_class(config):
    assert field_descriptions.of(config) == {"width": "Width in\npixels.", "height": "Height in millimetres."}


def test_a_plug_in_of_a_user_is_described():
    class Own(Plugin):
        """A plug-in of a user."""

        kind: Literal["own"] = "own"
        size: int = 3
        """Size in pixels."""
        inner: Base.Inner = Base.Inner()
        """Another map."""

    assert field_descriptions.of(Own)["kind"] == field_descriptions.of(Plugin)["kind"]
    properties = Own.model_json_schema()["properties"]
    assert properties["size"]["description"] == "Size in pixels."
    assert properties["kind"]["description"].startswith("Name of the kind")
    assert properties["inner"]["description"] == "Another map."


def test_a_class_without_source_has_the_descriptions_of_its_base_class_alone():
    names = {"Base": Base, "__name__": "a_module_that_is_not_there"}
    exec("class Made(Base):\n    width: int = 4\n    'Not read.'\n    more: int = 5\n    'Not read.'", names)
    made = names["Made"]
    assert field_descriptions.of(made) == field_descriptions.of(Base)
    assert "description" not in made.model_json_schema()["properties"]["more"]


def test_a_module_in_an_archive_is_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        source = "from launcher.config.base_model import Strict\nclass Packed(Strict):\n    a: int = 1\n    'A key.'\n"
        archive.writestr("module_in_an_archive.py", source)
    monkeypatch.syspath_prepend(tmp_path / "packed.zip")
    assert field_descriptions.of(importlib.import_module("module_in_an_archive").Packed) == {"a": "A key."}


def test_a_source_that_is_changed_to_no_python_gives_no_descriptions(tmp_path, monkeypatch):
    file = tmp_path / "module_being_edited.py"
    file.write_text(
        "from launcher.config.base_model import Strict\nclass Edited(Strict):\n    a: int = 1\n    'A key.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    edited = importlib.import_module("module_being_edited").Edited
    file.write_text("class Edited(Strict:\n")
    assert field_descriptions.of(edited) == {}
