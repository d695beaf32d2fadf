import io
import json
import sys
from pathlib import Path

import pytest
import support
from rich.console import Console
from support import changed_row


@pytest.fixture(autouse=True)
def _own_plugins(monkeypatch):
    """A plug-in `own.NAME` is the one of the test's folder, not that of an earlier test in this process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not Path(place, "own").is_dir()])


@pytest.fixture
def printed():
    """A function that returns the lines that an action prints on a console. `width`: columns; `styled`: whether it is a
    terminal."""

    def make(action, width=80, styled=False):
        out = io.StringIO()
        action(Console(file=out, width=width, force_terminal=styled, color_system="standard" if styled else None))
        return out.getvalue().splitlines()

    return make


@pytest.fixture(scope="session")
def sorter(tmp_path_factory):
    """A folder with runs/sorter, a trained classifier of texts by length, and held.jsonl, its validation rows."""
    folder = support.corpus(tmp_path_factory.mktemp("sorter"), 200)
    rows = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "corpus.jsonl").write_text("\n".join(rows[:140]) + "\n")
    held = [{"body" if key == "text" else key: value for key, value in json.loads(row).items()} for row in rows[140:]]
    (folder / "held.jsonl").write_text("\n".join(map(json.dumps, held)) + "\n")
    recipe = support.classification(
        "sorter", data__validation={"kind": "jsonl", "path": "held.jsonl", "text": "body"}, train__steps=40,
        optimizer__lr=0.02, checkpoint={"every": 20, "keep": 9}, train__max_tokens=None,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        support.launcher("run", support.write(recipe, "sorter.yaml"), "--ranks", 1)
    return folder


@pytest.fixture
def in_sorter(sorter, monkeypatch):
    monkeypatch.chdir(sorter)
    return Path("runs/sorter")


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with the runs of support.changed_row, and their cache."""
    folder = support.corpus(tmp_path_factory.mktemp("seen"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LAUNCHER_CACHE", str(folder / "cache"))
        changed_row.runs()
    return folder


@pytest.fixture
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("LAUNCHER_CACHE", str(place / "cache"))
    return place
