"""The files of a run folder before the first step."""

import filecmp
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from launcher.config import load
from launcher.config.atomic_files import write as write_file
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.plan.plan import Plan
from launcher.storage.partial_folder import filling
from launcher.storage.run_dir import RunDir

_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "accelerate", "deepspeed", "wandb", "launcher")
"""Packages whose versions are recorded."""


def write(folder: RunDir, recipe: Recipe, cluster: Cluster, plan: Plan, facts: Facts, prepared: Path) -> None:
    """Write the resolved recipe, the cluster profile, the plan, the facts, the environment and the tokenizer."""
    folder.checkpoints.mkdir(exist_ok=True)
    folder.logs.mkdir(exist_ok=True)
    load.dump(recipe, folder.recipe)
    load.dump(cluster, folder.cluster)
    write_file(folder.plan, plan.model_dump_json(indent=1))
    write_file(folder.facts, facts.model_dump_json(indent=1))
    write_file(folder.environment, json.dumps(environment(), indent=1))
    if not folder.whole():  # an earlier start without a checkpoint may have been of another recipe
        shutil.rmtree(folder.tokenizer, ignore_errors=True)
        shutil.rmtree(folder.model, ignore_errors=True)
    if (prepared / "tokenizer").is_dir() and not _has_files_of(prepared / "tokenizer", folder.tokenizer):
        shutil.rmtree(folder.tokenizer, ignore_errors=True)
        with filling(folder.tokenizer) as aside:
            shutil.copytree(prepared / "tokenizer", aside, dirs_exist_ok=True)


def _has_files_of(folder: Path, copy: Path) -> bool:
    """Return whether a copy of a folder has all of its files, undamaged."""
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return all((copy / name).is_file() and filecmp.cmp(folder / name, copy / name, shallow=False) for name in names)


def environment() -> dict[str, object]:
    """Return host, versions and git commit. Environment variables are left out, since they hold secrets."""
    tool = shutil.which("git")
    git = subprocess.run([tool, "rev-parse", "HEAD"], capture_output=True, text=True, check=False) if tool else None
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "git": (git.stdout.strip() if git else "") or None,
        "versions": versions,
    }
