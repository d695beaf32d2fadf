"""No module of the package imports itself by way of others, also where it does so inside of a function.

The import contract in pyproject.toml sees import statements alone. Plug-ins are exempt from it: launcher.config.kinds,
and launcher.config.plugins through it, load them by name from every floor. Nothing else imports by name.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import launcher
from launcher.config import kinds

ROOT = Path(launcher.__file__).parent


def modules() -> dict[str, Path]:
    names = {file: ".".join(("launcher", *file.relative_to(ROOT).with_suffix("").parts)) for file in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node but what is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imported(source: str, known: set[str]) -> set[str]:
    found = set()
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A circle; empty: there is none."""
    done, path = set(), list[str]()

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        found = next(filter(None, map(visit, sorted(edges[name]))), [])
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, sorted(edges))), [])


def test_there_is_no_circle():
    known = modules()
    packages = {name for name, file in known.items() if file.name == "__init__.py"}
    edges = {name: imported(file.read_text(encoding="utf-8"), set(known)) - {name} for name, file in known.items()}
    edges = {  # `from package import module` needs the module: the package itself only where it holds something
        name: {one for one in found if one not in packages or one == "launcher" or not name.startswith(one)}
        for name, found in edges.items()
    }
    assert len(known) > 200
    assert circle(edges) == []


def test_a_circle_is_found():
    known = {"a", "b", "c"}
    sources = {"a": "import b", "b": "def f():\n    from c import x", "c": "import a"}
    assert circle({name: imported(source, known) for name, source in sources.items()}) == ["a", "b", "c", "a"]
    sources["c"] = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a"
    assert circle({name: imported(source, known) for name, source in sources.items()}) == []


BY_NAME = {
    "import_module", "__import__", "run_module", "run_path", "entry_points", "spec_from_file_location", "exec",
}  # fmt: skip
FOLDERS = {"data", "lr_schedules", "models", "optimizers", "schedulers", "sinks", "strategies", "tasks"}


def called(source: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """The last name of what each call calls, and its arguments."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
                yield name, arguments


def test_modules_are_loaded_by_name_in_one_place():
    """The other is the starter, which runs torchrun or accelerate in its own process."""
    found = {
        name: loads
        for name, file in modules().items()
        if (loads := {call for call, _ in called(file.read_text(encoding="utf-8"))} & BY_NAME)
    }
    assert found == {
        "launcher.config.kinds": {"import_module"},
        "launcher.launch.starter": {"run_module"},
        "launcher.launch._rank_imports": {"import_module"},
    }


def test_what_is_loaded_by_name_is_of_a_plugin_folder():
    named = set()
    for file in modules().values():
        source = file.read_text(encoding="utf-8")
        if "kinds" in source:
            lookups = [args for name, args in called(source) if name in ("available", "module", "of", "config_class")]
            named |= {args[0].value for args in lookups if args and isinstance(args[0], ast.Constant)}
    assert named and named <= FOLDERS
    for folder in sorted({path.parent.name for path in modules().values()} - FOLDERS):
        with pytest.raises(ValueError, match="is no plug-in folder"):
            kinds.available(folder)
    with pytest.raises(kinds.KindError, match=r"^unknown kind 'launcher\.tools\.export\.export' \("):
        kinds.module("tasks", "launcher.tools.export.export")
    assert kinds.module("tasks", "launcher.tasks.mlm") is kinds.module("tasks", "mlm")


def test_a_load_by_name_is_found():
    loads = [name for name, _ in called("import importlib as i\ni.import_module(x)\nf(__import__(y).z)")]
    assert loads == ["import_module", "f", "__import__"]
