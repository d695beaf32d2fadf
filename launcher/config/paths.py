"""Names of the files and folders that the launcher writes. The types of what is in a run folder's files are in
launcher.storage.run_files."""

import os
from pathlib import Path

from launcher.config import env_vars
from launcher.config.atomic_files import expanded
from launcher.config.errors import UserError

RUNS = Path("runs")
"""Folder of run folders, in the current folder."""

RECIPE, CLUSTER, PLAN, FACTS, ENVIRONMENT = "recipe.yaml", "cluster.yaml", "plan.json", "facts.json", "environment.json"
METRICS, JOB_LOG, WANDB_ID = "metrics.jsonl", "jobs.jsonl", "wandb.id"
CHECKPOINTS, TOKENIZER, MODEL, JOBS, LOGS, REPORT = "checkpoints", "tokenizer", "model", "jobs", "logs", "report"
"""Files and folders of a run."""
COMPLETE, STATE = "COMPLETE", "state.json"
"""Files of each checkpoint beside its tensors and its recipe."""

BUNDLE = "bundle.json"
"""The file that marks a bundle."""
ARCHITECTURES, COMMITS, FINGERPRINTS, MODELS, PREPARED = (
    "architectures", "commits", "fingerprints", "models", "prepared",
)  # fmt: skip
CACHED = (ARCHITECTURES, COMMITS, FINGERPRINTS, MODELS, PREPARED)
"""Folders of the cache. A project may be in the same parent folder."""


def cache() -> Path:
    """The folder for what can be made again: $LAUNCHER_CACHE, else ~/.cache/launcher. Raises UserError where nobody
    knows which folder ~ is."""
    folder = expanded(os.environ.get(env_vars.CACHE, "~/.cache/launcher"))
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise UserError(f"the cache: {folder}: the home folder is not known (set HOME, or LAUNCHER_CACHE)")
    return folder
