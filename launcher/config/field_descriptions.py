"""Descriptions of the keys of a Config: the docstrings below its fields.

They are read from the source when they are asked for. Pydantic's `use_attribute_docstrings` parses the source of every
class when it is created, which every command would pay for.
"""

import ast
import functools
import inspect
import itertools
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from pydantic import BaseModel


@functools.cache
def of(config: type[BaseModel]) -> Mapping[str, str]:
    """Return the description of each field that has one.

    A description is the argument of `Field(description=...)`, else the docstring below the field, else the description
    in the nearest base class. A class without source has no docstrings.
    """
    found: dict[str, str] = {}
    for base in reversed(config.__bases__):
        if issubclass(base, BaseModel) and base.model_fields:
            found |= of(base)
    found |= _docstrings(sys.modules.get(config.__module__)).get(config.__qualname__, {})
    found |= {name: field.description for name, field in config.model_fields.items() if field.description}
    return {name: found[name] for name in config.model_fields if name in found}


@functools.cache
def _docstrings(module: ModuleType | None) -> Mapping[str, Mapping[str, str]]:
    """Return the docstrings below the fields of each class of a module, by the qualified name of the class."""
    try:
        return dict(_classes(ast.parse(inspect.getsource(module)))) if module else {}
    except (OSError, TypeError, SyntaxError):  # no source, or one that was changed since the import
        return {}


def _classes(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the qualified name of each class below a node, with the docstrings below its fields."""
    for child in ast.iter_child_nodes(node):
        below = prefix
        if isinstance(child, ast.ClassDef):
            yield prefix + child.name, _below_fields(child.body)
            below += f"{child.name}."
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            below += f"{child.name}.<locals>."
        if not isinstance(child, ast.expr):
            yield from _classes(child, below)


def _below_fields(body: list[ast.stmt]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in itertools.pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
