"""Locate the code of a module without importing it, and recognise folders that no code is imported from.

Somebody else may have written the content of these folders: run folders, checkpoints, bundles, the cache.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from launcher.config import paths

_MARKS = (
    ("a run folder", (paths.RECIPE,), (paths.PLAN, paths.FACTS, paths.METRICS, paths.ENVIRONMENT, paths.JOB_LOG)),
    ("a bundle", (paths.RECIPE,), (paths.BUNDLE,)),
    ("a checkpoint", (paths.COMPLETE,), (paths.STATE, ".metadata")),  # torch writes .metadata
)
"""Files by which an artefact is recognised: all of the first group, and one of the second."""


def files(name: str) -> list[Path]:
    """Return the files that importing a module would execute, packages first. Nothing is imported.

    If a package computes where its modules are, the list ends with the package's file. Raises ImportError if a part of
    the path is not found and no file was located before it.
    """
    located, parts, search_path = list[Path](), name.split("."), None
    for number, part in enumerate(parts):
        spec = _spec(".".join(parts[: number + 1]), part, search_path)
        if spec is None and located:  # a package may compute where its modules are
            return located
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if spec.has_location and spec.origin:
            located.append(Path(spec.origin))
        search_path = list(spec.submodule_search_locations or [])
    return located


def _spec(name: str, part: str, search_path: Sequence[str] | None) -> ModuleSpec | None:
    """Return the spec of a module; None: not found.

    `search_path`: the search path of the module's package; None for a module at the top level.
    """
    if (loaded := sys.modules.get(name)) is not None:
        return loaded.__spec__
    if search_path is not None:
        # only the last part of the name: for a whole name, the finder requires that the package is imported
        return PathFinder.find_spec(part, search_path)
    specs = (finder.find_spec(part, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec is not None), None)


def artefact(path: Path) -> str | None:
    """Return a description of the artefact that contains a path, such as 'runs/r, a run folder'; None: no artefact.

    The path is tested as it is written and with links resolved.
    """
    for full in dict.fromkeys((path.absolute(), path.resolve())):
        for folder in (full, *full.parents):
            if what := _what(folder):
                return f"{short(folder)}, {what}"
    return None


def _what(folder: Path) -> str | None:
    for what, required, optional in _MARKS:
        if all(os.path.lexists(folder / name) for name in required) and any(
            os.path.lexists(folder / name) for name in optional
        ):
            return what
    if folder == Path.cwd() / paths.RUNS:
        return "the folder of runs"
    root = paths.cache().absolute()
    cached = folder.name in paths.CACHED and folder.parent in (root, root.resolve())
    return "a part of the cache" if cached else None


def owned(file: Path, recipe: Path) -> bool:
    """Return whether a file belongs to the project in the current folder.

    The file must be below the current folder, not part of an installation, and not below the same top-level folder as
    the stored `recipe`.
    """
    project, resolved = Path.cwd().resolve(), file.resolve()
    if not resolved.is_relative_to(project) or any(resolved.is_relative_to(folder) for folder in _installed()):
        return False
    inside = resolved.relative_to(project)
    if {"site-packages", "dist-packages"} & set(inside.parts):
        return False
    stored_at = recipe.resolve()
    return not stored_at.is_relative_to(project) or stored_at.relative_to(project).parts[:1] != inside.parts[:1]


def _installed() -> Iterator[Path]:
    yield Path(__file__).resolve().parent.parent
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield Path(sysconfig.get_path(name)).resolve()


def short(folder: Path) -> Path:
    """Return the path relative to the current folder if it is below it, else unchanged."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
