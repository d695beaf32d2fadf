"""Docstrings name parameters, fields and keys that exist, and texts use the field's words."""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "launcher").rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NAMED = re.compile(r"`([a-z_]+)`")
DESCRIBED = re.compile(r"(?:^|[.;:] |\n)((?:`[a-z_]+`(?:, | and )?)+):")
"""One or several names before a colon, such as `one`, `other`: their description."""


def words(tree: ast.AST) -> set[str]:
    """Identifiers of a piece of code, and the words of its strings. Docstrings are left out."""
    found, texts = set[str](), set[int]()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant() as text):
                texts.add(id(text))
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found |= {*name.split("."), *([other] if other else [])}
            case ast.Constant(value=str(text)) if id(node) not in texts:
                found |= set(re.findall(r"\w+", text))
    return found


@cache
def of_file(file: Path) -> set[str]:
    return words(ast.parse(file.read_text(encoding="utf-8")))


def around(file: Path) -> set[str]:
    """The words of a module; of a package's base classes also those of the modules that extend them."""
    return set[str]().union(*map(of_file, file.parent.glob("*.py") if file.name == "__init__.py" else [file]))


def inherited(node: ast.AST) -> set[str]:
    """The keys that every Config of a plug-in inherits."""
    return of_file(ROOT / "launcher/config/types.py") if isinstance(node, ast.ClassDef) else set()


def unknown(file: Path) -> list[str]:
    """The names in docstrings that stand for nothing: a described name has to be in the function or class itself, any
    other in its module, unless it is a package."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and (text := ast.get_docstring(node)):
            described = {name for group in DESCRIBED.findall(text) for name in NAMED.findall(group)}
            missing = (described - words(node)) | (set(NAMED.findall(text)) - around(file))
            missing -= inherited(node)
            found += [f"{file.relative_to(ROOT)}:{node.lineno}: {name}" for name in missing if find_spec(name) is None]
    return sorted(found)


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=lambda path: path.name)
def test_docstrings_name_what_exists(folder: Path) -> None:
    assert [line for file in FILES if file.parent == folder for line in unknown(file)] == []


OWN_WORDS = re.compile(r"(?<![`\"])\b(?:dealt|unfit|told|(?:have|has|had|not) met|meets? (?:at|through|the others))\b")


def texts(file: Path) -> list[str]:
    """The sentences of a page, or of the strings of a module; a single word may be a value of a stored file."""
    text = file.read_text(encoding="utf-8")
    nodes = ast.walk(ast.parse(text)) if file.suffix == ".py" else [ast.Constant(text)]
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [one for one in strings if " " in one]


def test_texts_use_the_words_of_the_field() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md"), ROOT / "README.md"]
    assert [
        (file.name, word) for file in [*FILES, *pages] for one in texts(file) for word in OWN_WORDS.findall(one)
    ] == []
