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
EXIT_CODE, ERROR, RESTART = "code", "error", "again"
"""Files of a start (see `start_name`) by which the agent of the first node tells the batch script how it ended: the
exit code, the last message, and the hosts to leave out where it should start again."""
NODE_REPORT, NODE_VERDICT, NODE_OUTCOME = "report", "verdict", "ended"
"""Messages of a start that other modules than launcher.distributed.node_rendezvous look for."""

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


def start_name(job: str, number: int | str) -> str:
    """Name of the folder of a start below `jobs`, in which its nodes meet."""
    return f"{job}-{number}"


def node_message(kind: str, node: int | str) -> str:
    """Name of the message of a node."""
    return f"{kind}-{node}"


def message_file(message: str) -> str:
    """File of a message."""
    return f"{message}.json"


def submitted_script(number: int | str) -> str:
    """Name of the script of a submission below `jobs`."""
    return f"submit-{number}.sbatch"


def job_output(id: str) -> str:
    """Name of the output of a job below `logs`. `id`: as its scheduler names it."""
    return f"job-{id}.log"
