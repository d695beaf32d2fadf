"""Whose code may run. A recipe of the user's may name any installed module, or one of the current folder. A recipe that
is stored in a run folder or a bundle may be somebody else's: code that it names outside of the current folder's project
runs only where the user allows it by name. This is decided once, while the launcher loads the recipe. Ranks and other
child processes load recipes that it has checked.
"""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from launcher.config import code_origin

_DOTTED = re.compile(r"[^\W\d]\w*([.:][^\W\d]\w*)+")


@dataclass(frozen=True)
class _Loading:
    """A recipe that is being loaded."""

    stored: Path | None
    """Its file, where that lies in a run folder or a bundle."""
    outer: tuple[Path | None, ...] = ()
    """Files of the recipes that refer to it, the outermost first."""


_loading: ContextVar[_Loading | None] = ContextVar("loading", default=None)
_trusted: dict[str, bool] = {}
"""Names of code that may run; True: the --trust option named it, False: a recipe or an override of the user's."""


def trust(names: Iterable[str]) -> None:
    """Allow the names of the --trust option: kinds, functions, and models whose folder brings code."""
    _trusted.update(dict.fromkeys(names, True))


def names_of_option() -> list[str]:
    """The names of the --trust option."""
    return [name for name, by_option in _trusted.items() if by_option]


def all_names() -> list[str]:
    """All names that may run: those of the --trust option, and those in the user's recipes."""
    return list(_trusted)


@contextmanager
def loading(stored: Path | None, typed: Iterable[str] = ()) -> Iterator[None]:
    """Check the names of a recipe that is loaded in this context. `stored`: the file of one that may be somebody
    else's. `typed`: values on the command line, which are trusted. Raises ValueError for a recipe that refers to
    itself."""
    outside = _loading.get()
    outer = () if outside is None else (*outside.outer, outside.stored)
    if stored is not None and stored in outer:
        raise ValueError(f"{code_origin.short(stored)}: names itself, by way of others")
    _trusted.update({word: _trusted.get(word, False) for word in typed if _DOTTED.fullmatch(word)})
    token = _loading.set(_Loading(stored, outer))
    try:
        yield
    finally:
        _loading.reset(token)


def stored_recipe() -> Path | None:
    """The file of the stored recipe that is being loaded."""
    current = _loading.get()
    return current.stored if current else None


def is_loading() -> bool:
    """Whether a recipe is being loaded, so that its names are checked."""
    return _loading.get() is not None


def check(name: str, what: str, own: bool = False) -> None:
    """Raise ValueError where a stored recipe names code that the user has not allowed. `what`: description of the code,
    such as "code of the hub". `own`: the code belongs to the project in the current folder."""
    current = _loading.get()
    if current is None or own or name in _trusted:
        return
    if current.stored is not None:
        raise ValueError(
            f"is {what}, and {code_origin.short(current.stored)} names it, not you "
            f"(--trust {shlex.quote(name)} runs it)"
        )
    _trusted[name] = False


def check_module(named: str, name: str) -> None:
    """Check a module's files before it is imported. `named`: the words of the recipe for it. Raises ValueError where
    they lie in a folder that no code is taken from, or are not allowed (see `check`)."""
    if not is_loading() and name in sys.modules:
        return
    _search_current_folder()
    try:
        files = code_origin.files(name)
    except ImportError as error:
        raise ValueError(f"cannot be imported: {error}") from error
    for file in files:
        if where := code_origin.artefact(file):
            what = "code is taken from installed packages and the current folder alone"
            raise ValueError(f"is not imported: {file.name} lies in {where} ({what})")
    recipe = stored_recipe()
    own = recipe is not None and bool(files) and all(code_origin.owned(file, recipe) for file in files)
    check(named, f"code of {files[-1]}" if files else "code of Python itself", own)


def _search_current_folder() -> None:
    """Search modules in the current folder too. `python -m` does so by itself, a console script does not."""
    here = Path.cwd()
    if str(here) not in sys.path and code_origin.artefact(here) is None:
        sys.path.append(str(here))


def _check_remote(value: bool, info: ValidationInfo) -> bool:
    name = info.data.get("name") or info.data.get("run")
    if value and name:
        check(name, f"code that {name} brings")
    return value


TrustRemoteCode = Annotated[bool, AfterValidator(_check_remote)]
"""Whether the code in a model's or a tokenizer's folder may run. The Config names the folder as `name` or `run`."""
