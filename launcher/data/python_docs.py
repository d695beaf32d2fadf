"""Docstrings of Python packages: texts that need no download, labelled by their package.

The standard library has some 6,500 docstrings of 1.6 MB. Modules are parsed, never imported.
"""

import ast
import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import xxhash
from pydantic import Field

from launcher import data
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Part, Row, SourceConfig
from launcher.data._columns import lone_surrogate
from launcher.data._files import fingerprint_of

_EXCLUDED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


class Config(SourceConfig):
    """Docstrings of installed Python packages."""

    kind: Literal["python_docs"] = "python_docs"
    packages: list[str] = Field(["stdlib"], min_length=1)
    """`stdlib` (the whole standard library, with its modules as labels), or names of modules and packages."""
    shortest: int = Field(40, ge=1)
    """Minimum number of characters of a docstring."""


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        """Identify installed distributions by their versions, and all other modules by a hash of their files.

        The Python version does not identify the standard library, since some systems install only a part of it. Raises
        UserError for a package that is not installed.
        """
        known = _distributions()
        parts = ["python", platform.python_version(), *self.config.packages]
        for package in self.config.packages:
            if package in known:
                names = sorted(one.name for one in known[package])
                parts += [f"{name} {metadata.version(name)}" for name in names]
            else:
                parts.append(_hash([root for _, root in _roots(package, key)]))
        return " ".join(parts)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        roots = [root for package in self.config.packages for root in _roots(package, key)]
        texts = ((text, label) for label, path in roots for text in _docstrings(path, _version(path)))
        found = ({"text": text, "label": label} for text, label in texts if len(text) >= self.config.shortest)
        return ({column: row[column] for column in columns if column in row} for row in found)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        for _, path in (root for package in self.config.packages for root in _roots(package, key)):
            for number, text in enumerate(_docstrings(path, _version(path)), start=1):
                if len(text) >= self.config.shortest:
                    yield partial("{} docstring {}".format, path, number)


def _distributions() -> dict[str, list[metadata.Distribution]]:
    """Return the installed distributions by the names of their modules.

    They are those of importlib.metadata.packages_distributions, which makes a path of each installed file, and parses
    the description of each distribution (0.10 s in place of 0.01 s).
    """
    found: dict[str, list[metadata.Distribution]] = {}
    for one in metadata.distributions():
        for module in (one.read_text("top_level.txt") or "").split() or _recorded(one):
            found.setdefault(module, []).append(one)
    return found


def _recorded(distribution: metadata.Distribution) -> set[str]:
    """Return the names of the modules of which a distribution has a file."""
    record = distribution.read_text("RECORD")
    files = [line.partition(",")[0] for line in record.splitlines()] if record else map(str, distribution.files or [])
    return {file.partition("/")[0].removesuffix(".py") for file in files if file.endswith(".py")}


def _roots(package: str, key: str) -> list[tuple[str, Path]]:
    """Return (label, file or folder) of a package, or of each module of stdlib.

    Raises UserError if the package is not installed.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    if package == "stdlib":
        entries = sorted(path for path in library.iterdir() if path.name not in _EXCLUDED)
        return [(path.stem, path) for path in entries if path.is_dir() or path.suffix == ".py"]
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        names = {"stdlib", *sys.stdlib_module_names, *_distributions()}
        what = f"{package}: no Python package of this name is installed ({_suggestion(package, names)})"
        raise UserError(Problem(f"{key}.packages", what))
    origin = Path(spec.origin)
    return [(package, origin.parent if origin.name == "__init__.py" else origin)]


def _suggestion(package: str, names: set[str]) -> str:
    found = hint(package, names)
    return found if found.startswith("did") else "pip install it, or leave it out"


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _EXCLUDED]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def _hash(roots: list[Path]) -> str:
    state = xxhash.xxh3_128()
    for root in roots:
        for file in _files(root):
            content = file.read_bytes()
            state.update(f"{file.relative_to(root.parent)}\0{len(content)}\0".encode())
            state.update(content)
    return str(state.hexdigest())


def _version(root: Path) -> str:
    """Return a key for the cache below: a hash of the sizes and times of a root's files."""
    found = [(str(file), file.stat()) for file in _files(root)]
    return fingerprint_of((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


@cache
def _docstrings(root: Path, _version: str) -> tuple[str, ...]:
    """Return the docstrings of a root. Docstrings with a lone surrogate are left out.

    The result is cached, since a source is read more than once.
    """
    docstrings: list[str] = []
    for file in _files(root):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):  # a template, or code for another version of Python
            continue
        docstrings += [text for text in _tree_docstrings(tree) if not lone_surrogate(text)]
    return tuple(docstrings)


def _tree_docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    text = ast.get_docstring(node)
    if text:
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _tree_docstrings(child)
