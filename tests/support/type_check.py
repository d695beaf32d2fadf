"""mypy in strict mode on the files of a test, as the project runs it on its own: with one cache for all of them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def mypy(*paths: str | Path) -> "subprocess.CompletedProcess[str]":
    options = ["--strict", "--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache"]
    command = [sys.executable, "-m", "mypy", *options, *(Path(path).absolute() for path in paths)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def assert_accepted(*paths: str | Path) -> None:
    done = mypy(*paths)
    assert done.returncode == 0, done.stdout + done.stderr
