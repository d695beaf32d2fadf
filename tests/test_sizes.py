"""Files and functions of the package fit a reader: at most 300 and 60 lines."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "launcher"


def test_files_and_functions_are_short() -> None:
    texts = {file.relative_to(ROOT): file.read_text(encoding="utf-8") for file in ROOT.rglob("*.py")}
    assert [str(file) for file, text in texts.items() if len(text.splitlines()) > 300] == []
    functions = (
        (file, node)
        for file, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    long = [f"{file}: {node.name}" for file, node in functions if (node.end_lineno or 0) - node.lineno >= 60]
    assert long == []
