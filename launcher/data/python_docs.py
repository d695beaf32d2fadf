"""Docstrings of Python packages: text that is on every machine, with the package as a natural label.

The standard library alone has some 6,500 docstrings of 1.6 MB; installed packages add theirs. Modules are parsed, never
imported.
"""

import ast
import platform
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import xxhash
from pydantic import Field

from launcher import data
from launcher.config.errors import Problem, UserError
from launcher.config.types import hint
from launcher.data import BadRow, Part, Row
from launcher.data._columns import half_a_character
from launcher.data._source import SourceConfig, fingerprint_of

_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


class Config(SourceConfig):
    """Docstrings of installed Python packages."""

    kind: Literal["python_docs"] = "python_docs"
    packages: list[str] = Field(["stdlib"], min_length=1)
    """`stdlib` (the whole standard library, with its modules as labels), or names of modules and packages."""
    shortest: int = Field(40, ge=1)
    """Minimum number of characters of a docstring."""


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        """The versions of Python and of installed distributions; the content of all else: Python's own modules, which
        not every system has all of, and modules of the user's."""
        known = metadata.packages_distributions()
        parts = ["python", platform.python_version(), *self.config.packages]
        for package in self.config.packages:
            if package in known:
                parts += [f"{name} {metadata.version(name)}" for name in sorted(known[package])]
            else:
                parts.append(_hash([root for _, root in _roots(package, key)]))
        return " ".join(parts)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        roots = [root for package in self.config.packages for root in _roots(package, key)]
        texts = ((text, label) for label, path in roots for text in _docstrings(path, _version(path)))
        found = ({"text": text, "label": label} for text, label in texts if len(text) >= self.config.shortest)
        return ({column: row[column] for column in columns if column in row} for row in found)


def _roots(package: str, key: str) -> list[tuple[str, Path]]:
    """(label, file or folder) of a package; all modules for stdlib."""
    library = Path(sysconfig.get_paths()["stdlib"])
    if package == "stdlib":
        entries = sorted(path for path in library.iterdir() if path.name not in _LEFT_OUT)
        return [(path.stem, path) for path in entries if path.is_dir() or path.suffix == ".py"]
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        names = {"stdlib", *sys.stdlib_module_names, *metadata.packages_distributions()}
        what = f"{package}: no Python package of this name is installed ({_close(package, names)})"
        raise UserError(Problem(f"{key}.packages", what))
    origin = Path(spec.origin)
    return [(package, origin.parent if origin.name == "__init__.py" else origin)]


def _close(package: str, names: set[str]) -> str:
    found = hint(package, names)
    return found if found.startswith("did") else "pip install it, or leave it out"


def _files(root: Path) -> list[Path]:
    found = [root] if root.is_file() else sorted(root.rglob("*.py"))
    return [file for file in found if not _LEFT_OUT.intersection(file.relative_to(root).parts)]


def _hash(roots: list[Path]) -> str:
    state = xxhash.xxh3_128()
    for root in roots:
        for file in _files(root):
            state.update(f"{file.relative_to(root.parent)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return str(state.hexdigest())


def _version(root: Path) -> str:
    """Changes with the files of a root, so that what is remembered of them is not taken for what they are now."""
    found = [(str(file), file.stat()) for file in _files(root)]
    return fingerprint_of((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


@cache
def _docstrings(root: Path, _version: str) -> tuple[str, ...]:
    """Parsed once a process, since a source is read more than once. One with half a character is left out."""
    found: list[str] = []
    for file in _files(root):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):  # a template, or code for another Python
            continue
        found += [text for text in _of_tree(tree) if not half_a_character(text)]
    return tuple(found)


def _of_tree(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    text = ast.get_docstring(node)
    if text:
        yield text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_tree(child)
