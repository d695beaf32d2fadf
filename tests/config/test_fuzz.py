"""Whatever is written in a recipe, a profile or an override, it loads or is refused in lines of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import yaml_fuzz

from launcher.config import load
from launcher.config.errors import UserError


@pytest.mark.parametrize("number, seed", [(100, 0), pytest.param(2000, 1, marks=pytest.mark.soak)])
def test_damaged_files_and_overrides_load_or_are_refused(tmp_path, number, seed):
    """In a child that has 500 MiB: no other exception, nothing imported, started or written, and no case that hangs."""
    child = [sys.executable, yaml_fuzz.__file__, str(number), str(seed)]
    said = subprocess.run(child, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == []
    assert said.stderr == ""


def test_damage_is_of_every_kind(tmp_path, monkeypatch):
    """That some of what is tried loads, and that some is refused by YAML, some by its keys."""
    monkeypatch.chdir(tmp_path)
    told = list[str]()
    for case in yaml_fuzz.cases(60, 0):
        Path("recipe.yaml").write_bytes(case.content)
        try:
            (load.recipe if case.reader == "recipe" else load.cluster)("recipe.yaml", case.overrides)
            told.append("loads")
        except UserError as error:
            told += map(str, error.problems)
    for what in ("loads", "not valid YAML", "is not allowed", "unknown key", "should be", "more than 32 deep"):
        assert any(what in line for line in told), what
