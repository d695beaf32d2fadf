"""The package imports only distributions that pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import launcher

ROOT = Path(launcher.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("deepspeed", "flash", "mlflow", "onnx", "optuna", "tensorboard")


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normalized(re.match(r"[\w.-]+", one)[0]) for one in requirements}


def imports(node: ast.AST, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """The top-level packages imported below a node, except for type checkers, and whether that is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name.partition(".")[0], lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.module.partition(".")[0], lazy
        yield from imports(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def undeclared(source: str, distributions: dict[str, list[str]]) -> list[str]:
    """The imports of a module that neither the dependencies nor, inside functions, the extras declare."""
    required = declared(PROJECT["dependencies"])
    optional = required | {one for extra in EXTRAS for one in declared(PROJECT["optional-dependencies"][extra])}
    third_party = [(name, lazy) for name, lazy in imports(ast.parse(source)) if name not in _OWN]
    return [
        name
        for name, lazy in third_party
        if not {*map(normalized, distributions.get(name, [name]))} & (optional if lazy else required)
    ]


_OWN = {*sys.stdlib_module_names, "launcher", "__future__"}


def test_every_import_is_a_declared_dependency():
    distributions = packages_distributions()
    wrong = {
        str(file.relative_to(ROOT)): found
        for file in ROOT.rglob("*.py")
        if (found := undeclared(file.read_text(encoding="utf-8"), distributions))
    }
    assert wrong == {}


def test_undeclared_imports_are_found():
    assert undeclared("def f():\n    from scipy.stats import pearsonr", {"scipy": ["scipy"]}) == ["scipy"]
    assert undeclared("import deepspeed", {}) == ["deepspeed"]
    assert undeclared("def f():\n    import deepspeed, torch", {}) == []
    assert undeclared("if TYPE_CHECKING:\n    import scipy", {}) == []
