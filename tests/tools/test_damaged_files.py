"""Readers of damaged run files end with a value or with one line for the user."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.job_stories import NOW, SUBMITTED, ended, requeued, started

from launcher.config import load
from launcher.prepare import bundle
from launcher.storage import job_log, lease
from launcher.storage.run_dir import RunDir

READERS = [
    "metrics", "jobs", "ledger", "plan", "facts", "state", "complete", "tensors", "bundle", "environment", "lease",
    "wandb",
]  # fmt: skip
CASES = [pytest.param(100, id="100"), pytest.param(2000, id="2000", marks=pytest.mark.soak)]


@pytest.fixture(scope="module")
def finished(sorter, tmp_path_factory):
    """A folder with a finished run that has a job log and a writer, and the first files of a bundle of it."""
    home = tmp_path_factory.mktemp("damaged")
    shutil.copytree(sorter / "runs" / "sorter", home / "runs" / "run")
    run = RunDir(home / "runs" / "run")
    story = [SUBMITTED, started(0), ended("node", 0, 0, 69, excluded=["b"]), requeued(), started(1)]
    for number, (event, fields) in enumerate(story):
        job_log.append(run, {"event": event, "job": "12", "time": NOW + 60 * number, **fields})
    (run.path / "wandb.id").write_text("0123456789abcdef")
    (run.path / ".writer.lease-000001").write_bytes(lease.Holder.this().line())
    recipe = load.recipe(run.recipe).value
    (home / "recipe.json").write_text(recipe.model_dump_json())
    (home / "bundle" / "prepared" / "abc").mkdir(parents=True)
    load.dump(recipe, home / "bundle" / "recipe.yaml")
    (home / "bundle" / "bundle.json").write_text(json.dumps({"data": bundle._data_digest(recipe), "prepared": "abc"}))
    return home


@pytest.fixture(scope="module", params=CASES)
def damaged(request, finished):
    """The number of cases, and the results by reader. A case may take 500 MiB and a minute."""
    root = Path(__file__).parents[2]
    there = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, "-m", "support.damaged_files", str(finished), "suite", str(request.param), *READERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=there)
    assert done.returncode == 0, done.stdout + done.stderr
    return request.param, json.loads(done.stdout)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_refused_in_words(damaged, reader):
    """Takes 20 s for all readers. Random damage finds what no written case covers. The process imports no plug-in."""
    cases, found = damaged
    assert found[reader]["wrong"] == []
    assert found[reader]["refused"] > cases // 4
