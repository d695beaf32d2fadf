"""Where code comes from: the files behind a dotted path, found without importing any of them, and the folders that code
is never taken from, since somebody else may have made them: run folders, checkpoints, bundles, the cache.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from launcher.config import env_vars
from launcher.config.atomic_files import expanded
from launcher.config.errors import UserError

RUNS = Path("runs")
"""Where run folders are made, in the current folder."""
_MARKS = (
    ("a run folder", ("recipe.yaml",), ("plan.json", "facts.json", "metrics.jsonl", "environment.json", "jobs.jsonl")),
    ("a bundle", ("recipe.yaml",), ("bundle.json",)),
    ("a checkpoint", ("COMPLETE",), ("state.json", ".metadata")),
)
"""What a folder is, by files that are all there, and by others of which one is."""
_CACHED = ("architectures", "commits", "fingerprints", "models", "prepared")
"""What of the cache is its own; a project may lie beside it on the same scratch disk."""


def cache() -> Path:
    """The folder for what can be made again: $LAUNCHER_CACHE, else ~/.cache/launcher. Raises UserError where nobody
    knows which folder ~ is."""
    folder = expanded(os.environ.get(env_vars.CACHE, "~/.cache/launcher"))
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise UserError(f"the cache: {folder}: the home folder is not known (set HOME, or LAUNCHER_CACHE)")
    return folder


def files(name: str) -> list[Path]:
    """The files that importing a module executes, those of its packages first; nothing is imported. Raises ImportError
    where a part of the path is not there."""
    found, parts, where = list[Path](), name.split("."), None
    for number, part in enumerate(parts):
        spec = _spec(".".join(parts[: number + 1]), part, where)
        if spec is None and found:  # a package may decide itself where its modules are: its own code is known by now
            return found
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if spec.has_location and spec.origin:
            found.append(Path(spec.origin))
        where = list(spec.submodule_search_locations or [])
    return found


def _spec(name: str, part: str, where: Sequence[str] | None) -> ModuleSpec | None:
    """The spec of a module whose package is searched in `where`; None for `where`: it is in no package."""
    if (loaded := sys.modules.get(name)) is not None:
        return loaded.__spec__
    if where is not None:  # by its last part: for a whole path, the finder would ask for the package to be imported
        return PathFinder.find_spec(part, where)
    specs = (finder.find_spec(part, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec is not None), None)


def artefact(path: Path) -> str | None:
    """What the file or folder lies in that no code is taken from, such as 'runs/r, a run folder'; None: in nothing of
    the kind. Looked at as it is named, and with links resolved."""
    for full in dict.fromkeys((path.absolute(), path.resolve())):
        for folder in (full, *full.parents):
            if what := _what(folder):
                return f"{short(folder)}, {what}"
    return None


def _what(folder: Path) -> str | None:
    for what, every, some in _MARKS:
        if all(os.path.lexists(folder / name) for name in every) and any(
            os.path.lexists(folder / name) for name in some
        ):
            return what
    if folder == Path.cwd() / RUNS:
        return "the folder of runs"
    root = cache().absolute()
    own = folder.name in _CACHED and folder.parent in (root, root.resolve())
    return "a part of the cache" if own else None


def owned(file: Path, recipe: Path) -> bool:
    """Whether code belongs to the project in the current folder: it is no part of an installation, and no part of what
    the stored `recipe` came with, which is taken to be everything below the same folder of the current one."""
    here, there = Path.cwd().resolve(), file.resolve()
    if not there.is_relative_to(here) or any(there.is_relative_to(folder) for folder in _installed()):
        return False
    inside = there.relative_to(here)
    if {"site-packages", "dist-packages"} & set(inside.parts):
        return False
    beside = recipe.resolve()
    return not beside.is_relative_to(here) or beside.relative_to(here).parts[:1] != inside.parts[:1]


def _installed() -> Iterator[Path]:
    yield Path(__file__).resolve().parent.parent
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name)).resolve()


def short(folder: Path) -> Path:
    """As a user would name it: from the current folder on."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
