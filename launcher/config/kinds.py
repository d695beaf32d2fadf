"""A kind is a module name: `strategy: {kind: ddp}` is the module launcher.strategies.ddp.

The file is the registration. A user's own plug-in is named by a dotted path (`kind: mypkg.tasks.ranking`).
"""

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from launcher.config.types import Plugin, hint


def available(folder: str) -> list[str]:
    """The kinds of a plug-in folder such as 'tasks'; modules that begin with an underscore are none."""
    package = importlib.import_module(f"launcher.{folder}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def module(folder: str, kind: str) -> ModuleType:
    """The module behind a kind. Raises ValueError with a hint where there is none."""
    if "." in kind and all(part.isidentifier() for part in kind.split(".")):
        name = kind
    elif kind in available(folder):
        name = f"launcher.{folder}.{kind}"
    else:
        raise ValueError(f"unknown kind {kind!r} ({hint(kind, available(folder))})")
    try:
        found = imported(name)
    except ValueError as error:
        raise ValueError(f"kind {kind!r} {error}") from error
    config, todo = getattr(found, "Config", None), f"see launcher/{folder}/__init__.py"
    if not (isinstance(config, type) and issubclass(config, Plugin)):
        raise ValueError(f"kind {kind!r}: no class Config(Plugin) in {found.__file__} ({todo})")
    return found


def imported(name: str) -> ModuleType:
    """A module by its dotted path, looked for in the current folder too. Raises ValueError that says where it fails."""
    if not name.startswith("launcher.") and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a console script, unlike `python -m`, does not look here
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
    """A user's own function, by its path: mypkg.models:make or mypkg.models.make. Raises ValueError that says why
    there is none."""
    where, _, name = path.rpartition(":" if ":" in path else ".")
    if not all(part.isidentifier() for part in [*where.split("."), name]):
        raise ValueError(f"{path!r} is no path to a function (such as mypkg.models:make)")
    try:
        found = imported(where)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    if not callable(made := getattr(found, name, None)):
        functions = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{found.__file__} has no function {name} ({hint(name, functions)})")
    return made  # type: ignore[no-any-return]


def of(folder: str, config: Plugin) -> ModuleType:
    """The module of a configuration that has been checked already."""
    return module(folder, config.kind)


def plugin(folder: str) -> BeforeValidator:
    """A pydantic annotation: a map with `kind` (or the bare name of one) becomes that kind's Config."""

    def parse(value: Any) -> Any:
        if isinstance(value, Plugin):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise PydanticCustomError(
                "kind", "needs a kind ({known})", {"known": "there are: " + ", ".join(available(folder))}
            )
        try:
            config = module(folder, value["kind"]).Config
        except ValueError as error:
            raise PydanticCustomError("kind", "{what}", {"what": str(error)}) from error
        return config.model_validate(value)

    return BeforeValidator(parse)
