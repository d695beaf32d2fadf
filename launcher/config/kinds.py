"""Plug-ins by name. A kind is a module name: `strategy: {kind: ddp}` is the module launcher.strategies.ddp.

The file is the registration. A user's own plug-in is named by a dotted path (`kind: mypkg.tasks.ranking`) of an
installed package or of the current folder, never of a run folder, a bundle or the cache (see launcher.config.trust).

This module, also through launcher.config.plugins, imports modules of higher layers by name, which the import contract
does not see. Of the launcher's own modules it imports only plug-ins; tests/test_imports.py checks that no other module
of the package imports by name.
"""

import importlib
import pkgutil
import traceback
from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from launcher.config import trust
from launcher.config.base_model import hint
from launcher.config.types import Plugin

P = TypeVar("P", bound=Plugin)

_CLASSES = {
    "data": "Source", "lr_schedules": "Schedule", "models": "Model", "optimizers": "Optimizer",
    "schedulers": "Scheduler", "sinks": "Sink", "strategies": "Strategy", "tasks": "Task",
}  # fmt: skip
"""Class that a plug-in defines beside its Config, by folder. The folder's package has the base class of the same
name."""


FOLDERS = tuple(_CLASSES)
"""All plug-in folders."""


@dataclass(frozen=True)
class KindValidator(BeforeValidator):
    """Validator of a value whose `kind` names a plug-in.

    `folder`: plug-in folder of the kinds. `optional`: the validator may infer the kind from other keys.
    """

    folder: str = ""
    optional: bool = False

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, object]:
        """Return a placeholder, because the kinds are imported when a value names them (see launcher.tools.schema)."""
        return {"kinds": self.folder, "optional": self.optional}


class KindError(ValueError):
    """Error: a kind does not exist, or its module is not a plug-in."""


def available(folder: str) -> list[str]:
    """Return the kinds of a plug-in folder such as 'tasks': its modules without a leading underscore."""
    modules = pkgutil.iter_modules(_package(folder).__path__)
    return sorted(found.name for found in modules if not found.name.startswith("_"))


def _package(folder: str) -> ModuleType:
    """Return the package of a plug-in folder. Raises ValueError for another folder."""
    if folder not in _CLASSES:
        raise ValueError(f"launcher/{folder} is no plug-in folder")
    return importlib.import_module(f"launcher.{folder}")


def module(folder: str, kind: str) -> ModuleType:
    """Import the module of a kind. Raises KindError if that fails.

    The message has a hint for an unknown kind, the reason why the import fails, or what the module lacks.
    """
    if _is_dotted(kind) and (not kind.startswith("launcher.") or kind.startswith(f"launcher.{folder}.")):
        name = kind
    elif kind in available(folder):
        name = f"launcher.{folder}.{kind}"
    else:
        raise KindError(f"unknown kind {kind!r} ({hint(kind, available(folder))})")
    try:
        imported_module = imported(name, kind)
    except ValueError as error:
        raise KindError(f"kind {kind!r} {error}") from error
    if lacks := _missing(folder, imported_module):
        raise KindError(f"kind {kind!r}: {lacks} (see launcher/{folder}/__init__.py)")
    return imported_module


def _is_dotted(kind: str) -> bool:
    return "." in kind and all(part.isidentifier() for part in kind.split("."))


def _missing(folder: str, plugin_module: ModuleType) -> str | None:
    """Return what a module lacks to be a plug-in of a folder; None: nothing."""
    config, file = getattr(plugin_module, "Config", None), plugin_module.__file__
    if not (isinstance(config, type) and issubclass(config, Plugin)):
        return f"no class Config(Plugin) in {file}"
    name = _CLASSES[folder]
    base: type = getattr(_package(folder), name)
    found = getattr(plugin_module, name, None)
    if not (isinstance(found, ABCMeta) and base in found.__mro__):
        return f"no class {name}(launcher.{folder}.{name}) in {file}"
    if abstract := sorted(found.__abstractmethods__):
        return f"its class {name} in {file} has no {', '.join(abstract)}"
    return None


def imported(name: str, named: str) -> ModuleType:
    """Import a module by its dotted path, in the current folder too. `named`: its name as the recipe writes it.

    Raises ValueError with the line that fails, or with the reason why it must not be imported.
    """
    if not name.startswith("launcher."):
        trust.check_module(named, name)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"cannot be imported: {error}") from error
    except Exception as error:  # the code of a user's own plug-in may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (at.filename, at.lineno)
        what = f"{where[0]}:{where[1]}: {type(error).__name__}: {getattr(error, 'msg', error)}"
        raise ValueError(f"cannot be imported: {what}") from error


def function(path: str) -> Callable[..., Any]:
    """Import a user's function by its path, mypkg.models:make or mypkg.models.make.

    Raises ValueError with the reason if that fails.
    """
    module_name, name = _split(path)
    try:
        if module_name.partition(".")[0] == "launcher":
            trust.check_module(path, module_name)
        owner = imported(module_name, path)
    except ValueError as error:
        raise ValueError(f"{module_name} {error}") from None
    if not callable(function_ := getattr(owner, name, None)):
        functions = [key for key, value in vars(owner).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{owner.__file__} has no function {name} ({hint(name, functions)})")
    if trust.stored_recipe() is not None:  # it may be a function that the user's module imports, such as subprocess.run
        trust.check_module(path, getattr(function_, "__module__", None) or "builtins")
    return function_  # type: ignore[no-any-return]


def _split(path: str) -> tuple[str, str]:
    where, _, name = path.rpartition(":" if ":" in path else ".")
    if not all(part.isidentifier() for part in [*where.split("."), name]):
        raise ValueError(f"{path!r} is no path to a function (such as mypkg.models:make)")
    return where, name


def of(folder: str, config: Plugin) -> ModuleType:
    """Return the module of a validated Config."""
    return module(folder, config.kind)


def config_class(folder: str, kind: str, base: type[P]) -> type[P]:
    """Return the Config of a kind. Raises KindError, also if it is no subclass of `base`."""
    found = module(folder, kind).Config
    if not issubclass(found, base):
        raise KindError(f"kind {kind!r}: its Config is no {base.__name__} (see launcher/{folder}/__init__.py)")
    config: type[P] = found
    return config


def plugin(folder: str, base: type[Plugin] = Plugin) -> KindValidator:
    """Return a pydantic annotation that validates a value as the Config of its kind, a subclass of `base`.

    The value is a map with `kind`, or the bare name of a kind.
    """

    def parse(value: object) -> Plugin:
        if isinstance(value, Plugin):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise PydanticCustomError(
                "kind", "needs a kind ({known})", {"known": "there are: " + ", ".join(available(folder))}
            )
        try:
            return config_class(folder, value["kind"], base).model_validate(value)
        except KindError as error:
            raise PydanticCustomError("kind", "{what}", {"what": str(error)}) from error

    return KindValidator(parse, folder=folder)
