"""A kind is a module name: the file is the registration."""

import importlib
import sys
from pathlib import Path

import pytest
import support
from pydantic import ValidationError

from launcher.config import kinds, load
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin

FOLDERS = ("data", "lr_schedules", "models", "optimizers", "schedulers", "sinks", "strategies", "tasks")

SOURCE = """
from launcher import data
from launcher.config.types import Plugin

class Source(data.Source):
    def fingerprint(self, key): return ""
    def rows(self, columns, key, part): return iter([])

class Config(Plugin):
    kind: str
    times: int = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the user's own with nothing imported from it, on no path: as a console script finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def plugin(code: str, file: str = "mine/rows.py") -> None:
    Path(file).parent.mkdir(parents=True)
    Path(file).write_text(code)


def mistake(**changes) -> str:
    with pytest.raises(UserError) as told:
        load.recipe(support.write(support.mlm(**changes)))
    assert len(told.value.problems) == 1
    return str(told.value).split(": ", 1)[1]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_kinds_of_a_folder_are_its_modules_without_an_underscore(folder):
    package = Path(importlib.import_module(f"launcher.{folder}").__file__).parent
    files = {file.stem for file in package.glob("*.py")}
    assert set(kinds.available(folder)) == {name for name in files if not name.startswith("_")}


@pytest.mark.parametrize(("folder", "kind"), [(folder, kind) for folder in FOLDERS for kind in kinds.available(folder)])
def test_every_kind_has_a_config_of_its_own_name(folder, kind):
    config = kinds.module(folder, kind).Config
    assert issubclass(config, Plugin)
    assert config.model_fields["kind"].default == kind


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_module_with_an_underscore_is_no_kind(folder):
    package = Path(importlib.import_module(f"launcher.{folder}").__file__).parent
    for file in package.glob("_*.py"):
        with pytest.raises(ValueError, match=f"unknown kind '{file.stem}'"):
            kinds.module(folder, file.stem)


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_unknown_kind_lists_those_there_are(folder):
    with pytest.raises(ValueError) as told:
        kinds.module(folder, "zzzzzz")
    assert str(told.value) == f"unknown kind 'zzzzzz' (there are: {', '.join(kinds.available(folder))})"


@pytest.mark.parametrize("kind", ["", ".", "..", ".text", "text.", "a..b", "my kind", "my-kind.text", "TEXT"])
def test_what_is_no_name_of_a_module_is_an_unknown_kind(kind):
    with pytest.raises(ValueError, match="unknown kind"):
        kinds.module("data", kind)


def test_a_kind_has_to_be_named():
    known = f"there are: {', '.join(kinds.available('tasks'))}"
    for value in ({"mask_rate": 0.1}, {"kind": 3}, {"kind": None}, [], 3):
        with pytest.raises(ValidationError, match=f"needs a kind \\({known}\\)"):
            Recipe.model_validate(support.mlm(task=value))


# A user's own


def test_a_dotted_path_is_a_plugin_of_a_package_in_the_current_folder(here):
    plugin(SOURCE)
    recipe = load.recipe(support.write(support.mlm(data__train={"kind": "mine.rows", "times": 4}))).value
    assert (recipe.data.train.kind, recipe.data.train.times) == ("mine.rows", 4)
    assert kinds.of("data", recipe.data.train).__file__ == str(here / "mine" / "rows.py")
    load.dump(recipe, Path("resolved.yaml"))
    assert load.recipe("resolved.yaml").value == recipe


def test_a_key_that_a_users_own_plugin_does_not_know_is_refused(here):
    plugin(SOURCE)
    told = mistake(data__train={"kind": "mine.rows", "tims": 4})
    assert told == "data.train.tims: unknown key (did you mean times?)"


def test_a_validator_of_a_users_own_plugin_says_what_it_says(here):
    plugin(
        SOURCE
        + """
    from pydantic import field_validator
    @field_validator("times")
    @classmethod
    def _odd(cls, value):
        if value % 2 == 0:
            raise ValueError("{times} should be odd")
        return value
"""
    )
    told = mistake(data__train={"kind": "mine.rows", "times": 4})
    assert told == "data.train.times: {times} should be odd"


def test_a_dotted_path_without_a_module_is_reported(here):
    plugin(SOURCE)
    told = mistake(data__train={"kind": "mine.row"})
    assert told == "data.train: kind 'mine.row' cannot be imported: No module named 'mine.row'"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_package", "No module named 'no_such_package'"),
        ("x = 1\ndef (", "{file}:2: SyntaxError: invalid syntax"),
        ("x = 1\n\nx / 0", "{file}:3: ZeroDivisionError: division by zero"),
    ],
)
def test_a_users_own_plugin_that_does_not_run_is_reported_with_its_line(here, code, told):
    plugin(code)
    said = mistake(data__train={"kind": "mine.rows"})
    assert said == f"data.train: kind 'mine.rows' cannot be imported: {told.format(file=here / 'mine' / 'rows.py')}"


@pytest.mark.parametrize("code", ["", "Config = 3", "class Config: pass"])
def test_a_module_without_a_config_is_no_plugin(here, code):
    plugin(code)
    told = f"kind 'mine.rows': no class Config(Plugin) in {here}/mine/rows.py (see launcher/data/__init__.py)"
    assert mistake(data__train={"kind": "mine.rows"}) == f"data.train: {told}"


CLASSES = {
    "data": ("Source", "fingerprint, rows"),
    "lr_schedules": ("Schedule", "after_warmup"),
    "models": ("Model", "build"),
    "optimizers": ("Optimizer", "build"),
    "schedulers": ("Scheduler", "cancel, render, state, submit"),
    "sinks": ("Sink", "__init__, close, write"),
    "strategies": ("Strategy", "layouts, memory_share, wrap"),
    "tasks": (
        "Task", "baseline, collate, directions, features, loss, metrics, output_size, predict, predictions, "
        "preparation_key, render, samples, weight, zero_weight",
    ),
}  # fmt: skip
"""The class of a family beside `Config`, and the members that it must have, as docs/plugins.md lists them."""


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("code", ["", "{name} = 3", "class {name}: pass", "def {name}(config): pass"])
def test_a_module_without_the_class_of_its_family_is_no_plugin(here, folder, code):
    name, _ = CLASSES[folder]
    plugin("from launcher.config.types import Plugin\nclass Config(Plugin): pass\n" + code.format(name=name))
    with pytest.raises(kinds.KindError) as told:
        kinds.module(folder, "mine.rows")
    what = f"no class {name}(launcher.{folder}.{name}) in {here}/mine/rows.py"
    assert str(told.value) == f"kind 'mine.rows': {what} (see launcher/{folder}/__init__.py)"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_class_without_the_members_of_its_family_is_no_plugin(here, folder):
    name, members = CLASSES[folder]
    plugin(
        f"from launcher.{folder} import {name} as Base\nfrom launcher.config.types import Plugin\n"
        f"class Config(Plugin): pass\nclass {name}(Base): pass\n"
    )
    with pytest.raises(kinds.KindError) as told:
        kinds.module(folder, "mine.rows")
    what = f"its class {name} in {here}/mine/rows.py has no {members}"
    assert str(told.value) == f"kind 'mine.rows': {what} (see launcher/{folder}/__init__.py)"


def test_a_plugin_that_lacks_something_is_reported_with_its_line(here):
    plugin(SOURCE.replace("def rows", "def columns"))
    told = mistake(data__train={"kind": "mine.rows"})
    what = f"its class Source in {here}/mine/rows.py has no rows (see launcher/data/__init__.py)"
    assert told == f"data.train: kind 'mine.rows': {what}"
