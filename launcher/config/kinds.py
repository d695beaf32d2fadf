"""A kind is a module name: `strategy: {kind: ddp}` is the module launcher.strategies.ddp.

The file is the registration. A user's own plug-in is named by a dotted path (`kind: mypkg.tasks.ranking`): of an
installed package or of the current folder, never of a run folder, a bundle or the cache. A recipe that is stored in one
of these may be somebody else's: what it names outside of the current folder's project is run only where the user allows
it by name. This is decided once, where the launcher reads the recipe; ranks and other processes of its own only read
what it has checked.
"""

import importlib
import pkgutil
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from launcher.config import code_origin
from launcher.config.types import Plugin, hint

P = TypeVar("P", bound=Plugin)
_DOTTED = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")


@dataclass(frozen=True)
class _Reading:
    """A recipe that is being read. `stored`: its file, where that lies in a run folder or a bundle; `above`: those that
    led to it."""

    stored: Path | None
    above: tuple[Path | None, ...] = ()


_reading: ContextVar[_Reading | None] = ContextVar("reading", default=None)
_named: dict[str, bool] = {}
"""What may be run, by the words for it; whether --trust named it, or a recipe of the user's."""


def trust(names: Iterable[str]) -> None:
    """Allow what --trust names: kinds, functions, and models whose folder brings code."""
    _named.update(dict.fromkeys(names, True))


def given() -> list[str]:
    """What --trust named."""
    return [name for name, by_option in _named.items() if by_option]


def trusted() -> list[str]:
    """All that may be run: what --trust named, and what the user's recipes name."""
    return list(_named)


@contextmanager
def reading(stored: Path | None, typed: Iterable[str] = ()) -> Iterator[None]:
    """While a recipe is being read: one of the user's names what may be run; a `stored` one has to be allowed to.
    `typed`: values on the command line, which are the user's. Raises ValueError for a recipe that leads to itself."""
    now = _reading.get()
    above = () if now is None else (*now.above, now.stored)
    if stored is not None and stored in above:
        raise ValueError(f"{code_origin.short(stored)}: names itself, by way of others")
    _named.update({word: _named.get(word, False) for word in typed if _DOTTED.fullmatch(word)})
    token = _reading.set(_Reading(stored, above))
    try:
        yield
    finally:
        _reading.reset(token)


def stored() -> Path | None:
    """The file of the stored recipe that is being read."""
    now = _reading.get()
    return now.stored if now else None


def is_read() -> bool:
    """Whether a recipe is being read, whose names are still to be allowed."""
    return _reading.get() is not None


def allow(name: str, what: str, own: bool = False) -> None:
    """Raises ValueError where the recipe that is being read is a stored one, and nobody allowed what it names. `own`:
    it is code of the current folder's project. `what`: what is to be run, such as "code of the machine"."""
    now = _reading.get()
    if now is None or own or name in _named:
        return
    if now.stored is not None:
        raise ValueError(
            f"is {what}, and {code_origin.short(now.stored)} names it, not you (--trust {shlex.quote(name)} runs it)"
        )
    _named[name] = False


def _allow_remote(value: bool, info: ValidationInfo) -> bool:
    name = info.data.get("name") or info.data.get("run")
    if value and name:
        allow(name, f"code that {name} brings")
    return value


TrustRemoteCode = Annotated[bool, AfterValidator(_allow_remote)]
"""Whether the code that a model's or a tokenizer's folder brings is run. The map has the folder as its name or run."""


def allow_module(named: str, name: str) -> None:
    """Look where a module is before it is imported. Raises ValueError where it lies in a place that no code is taken
    from, or is not allowed (see `allow`)."""
    if not is_read() and name in sys.modules:
        return
    _look_here()
    try:
        found = code_origin.files(name)
    except ImportError as error:
        raise ValueError(f"cannot be imported: {error}") from error
    for file in found:
        if where := code_origin.artefact(file):
            what = "code is taken from installed packages and the current folder alone"
            raise ValueError(f"is not imported: {file.name} lies in {where} ({what})")
    recipe = stored()
    own = recipe is not None and bool(found) and all(code_origin.owned(file, recipe) for file in found)
    allow(named, f"code of {found[-1]}" if found else "code of Python itself", own)


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
        found = imported(name, kind)
    except ValueError as error:
        raise ValueError(f"kind {kind!r} {error}") from error
    config, todo = getattr(found, "Config", None), f"see launcher/{folder}/__init__.py"
    if not (isinstance(config, type) and issubclass(config, Plugin)):
        raise ValueError(f"kind {kind!r}: no class Config(Plugin) in {found.__file__} ({todo})")
    return found


def imported(name: str, named: str) -> ModuleType:
    """A module by its dotted path, looked for in the current folder too. `named`: the words of the recipe for it.
    Raises ValueError that says where it fails, or why it is not imported."""
    if not name.startswith("launcher."):
        allow_module(named, name)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"cannot be imported: {error}") from error
    except Exception as error:  # the code of a user's own plug-in may raise anything
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (at.filename, at.lineno)
        what = f"{where[0]}:{where[1]}: {type(error).__name__}: {getattr(error, 'msg', error)}"
        raise ValueError(f"cannot be imported: {what}") from error


def _look_here() -> None:
    """A console script, unlike `python -m`, does not look for modules in the current folder."""
    here = Path.cwd()
    if str(here) not in sys.path and code_origin.artefact(here) is None:
        sys.path.append(str(here))


def function(path: str) -> Callable[..., Any]:
    """A user's own function, by its path: mypkg.models:make or mypkg.models.make. Raises ValueError that says why
    there is none."""
    where, name = _parted(path)
    try:
        if where.partition(".")[0] == "launcher":
            allow_module(path, where)
        found = imported(where, path)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    if not callable(made := getattr(found, name, None)):
        functions = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{found.__file__} has no function {name} ({hint(name, functions)})")
    if stored() is not None:  # a module of one's own may hold functions of others: subprocess.run, say
        allow_module(path, getattr(made, "__module__", None) or "builtins")
    return made  # type: ignore[no-any-return]


def _parted(path: str) -> tuple[str, str]:
    where, _, name = path.rpartition(":" if ":" in path else ".")
    if not all(part.isidentifier() for part in [*where.split("."), name]):
        raise ValueError(f"{path!r} is no path to a function (such as mypkg.models:make)")
    return where, name


def of(folder: str, config: Plugin) -> ModuleType:
    """The module of a configuration that has been checked already."""
    return module(folder, config.kind)


class KindError(ValueError):
    """A kind that does not exist, or whose module is no plug-in."""


def config_class(folder: str, kind: str, base: type[P]) -> type[P]:
    """The Config of a kind, a `base`. Raises KindError."""
    try:
        found = module(folder, kind).Config
    except ValueError as error:
        raise KindError(str(error)) from error
    if not issubclass(found, base):
        raise KindError(f"kind {kind!r}: its Config is no {base.__name__} (see launcher/{folder}/__init__.py)")
    config: type[P] = found
    return config


def plugin(folder: str, base: type[Plugin] = Plugin) -> BeforeValidator:
    """A pydantic annotation: a map with `kind` (or the bare name of one) becomes that kind's Config, a `base`."""

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
            return config_class(folder, value["kind"], base).model_validate(value)
        except KindError as error:
            raise PydanticCustomError("kind", "{what}", {"what": str(error)}) from error

    return BeforeValidator(parse)
