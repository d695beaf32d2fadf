"""Decide which code a recipe may run.

A user's own recipe may name any installed module, or a module of the current folder. Somebody else may have written a
recipe that is stored in a run folder or a bundle. Code that it names runs only if it belongs to the project in the
current folder, or if the user allows its name.

The launcher checks the names once, while it loads the recipe. Ranks and other child processes do not check them again.
"""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
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
    """File of the recipe if it is in a run folder or a bundle, else None."""
    outer: tuple[Path | None, ...] = ()
    """Files of the recipes that refer to this one, the outermost first."""


_loading: ContextVar[_Loading | None] = ContextVar("loading", default=None)
_trusted: dict[str, bool] = {}
"""Names of code that may run. True: the --trust option names it; False: the user's recipe or an override does."""


def trust(names: Iterable[str]) -> None:
    """Allow the names of the --trust option: kinds, functions, and models whose folder brings code."""
    _trusted.update(dict.fromkeys(names, True))


def names_of_option() -> list[str]:
    """Return the names of the --trust option."""
    return [name for name, by_option in _trusted.items() if by_option]


def all_names() -> list[str]:
    """Return all names that may run: those of the --trust option, and those in the user's recipes."""
    return list(_trusted)


def dotted_paths(overrides: Sequence[str]) -> list[str]:
    """Return the words in the values of overrides that may be dotted paths."""
    return [word for text in overrides for word in re.findall(r"[\w.:]+", text.partition("=")[2])]


@contextmanager
def loading(stored: Path | None, typed: Iterable[str] = ()) -> Iterator[None]:
    """Check the names of code in a recipe that is loaded in the block.

    `stored`: the recipe's file if somebody else may have written it, else None. `typed`: values on the command line,
    which are trusted. Raises ValueError for a recipe that refers to itself.
    """
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
    """Return the file of the stored recipe that is being loaded; None: no recipe, or the user's own."""
    current = _loading.get()
    return current.stored if current else None


def is_loading() -> bool:
    """Return whether a recipe is being loaded, so that its names are checked."""
    return _loading.get() is not None


def check(name: str, what: str, own: bool = False) -> None:
    """Raise ValueError if a stored recipe names code that the user has not allowed.

    `what`: description of the code, such as "code of the hub". `own`: the code belongs to the project in the current
    folder.
    """
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
    """Check the files of a module before it is imported. `named`: its name as the recipe writes it.

    Raises ValueError if a file is missing, is in an artefact (see code_origin.artefact), or is not allowed (see
    `check`).
    """
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
    """Add the current folder to the search path of modules, as `python -m` does."""
    here = Path.cwd()
    if str(here) not in sys.path and code_origin.artefact(here) is None:
        sys.path.append(str(here))


def _check_remote(value: bool, info: ValidationInfo) -> bool:
    name = info.data.get("name") or info.data.get("run")
    if value and name:
        check(name, f"code that {name} brings")
    return value


TrustRemoteCode = Annotated[bool, AfterValidator(_check_remote)]
"""Whether code in the folder of a model or tokenizer may run. The Config has the folder in its key `name` or `run`."""
