"""No module of the package imports itself by way of others, also where it does so inside of a function."""

import ast
from collections.abc import Iterator
from pathlib import Path

import launcher

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
