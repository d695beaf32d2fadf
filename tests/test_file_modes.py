"""What a run writes has the modes that the user's umask gives, so that a team can share runs and prepared data."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
import support


def modes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_dir()
    }


@pytest.mark.parametrize("umask", [0o002, pytest.param(0o027, marks=pytest.mark.soak)])
def test_files_and_folders_have_the_modes_of_the_umask(workspace, monkeypatch, umask):
    """A group may write under 002, and others read nothing under 027; two ranks, an evaluation and an export. No other
    test has the umask of a team."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    support.write(support.mlm(data__validation={"fraction": 0.2}, train__steps=2, sinks=["console", "jsonl"]))
    for words in (
        ["run", "recipe.yaml", "--ranks", "2"], ["evaluate", "runs/tiny", "--ranks", "1"], ["export", "runs/tiny"],
    ):  # fmt: skip
        done = subprocess.run(support.command(*words), umask=umask, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found = modes(workspace / "runs") | {f"cache/{name}": mode for name, mode in modes(workspace / "cache").items()}
    assert len(found) > 40 and any("shard-00002" in name for name in found)
    wrong = {
        name: mode
        for name, mode in found.items()
        if mode
        != oct((0o777 if (workspace / "runs" / name).is_dir() or (workspace / name).is_dir() else 0o666) & ~umask)
    }
    assert wrong == {}
    assert os.access(workspace / "runs", os.R_OK)
