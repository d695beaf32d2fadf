"""Names of files and folders that the launcher writes. launcher.storage.run_files has the types of their content."""

import os
from pathlib import Path

from launcher.config import env_vars
from launcher.config.atomic_files import expanded
from launcher.config.errors import UserError

RUNS = Path("runs")
"""Folder of run folders, in the current folder."""
SWEEPS = Path("sweeps")
"""Folder of sweeps, in the current folder. A sweep's trials are runs, and so have folders in `RUNS`."""
TUNED = Path("tuned")
"""Folder of the settings that `launcher tune` found, in the current folder."""

RECIPE, CLUSTER, PLAN, FACTS, ENVIRONMENT = "recipe.yaml", "cluster.yaml", "plan.json", "facts.json", "environment.json"
METRICS, JOB_LOG, LEDGER = "metrics.jsonl", "jobs.jsonl", "ledger.jsonl"
WANDB_ID, MLFLOW_ID = "wandb.id", "mlflow.id"
ROLL_BACKS, TOKEN_LIMIT, MEMORY_ID = "roll_backs.json", "max_tokens.json", "memory.id"
CHECKPOINTS, TOKENIZER, MODEL, JOBS, LOGS, REPORT = "checkpoints", "tokenizer", "model", "jobs", "logs", "report"
"""Files and folders of a run."""
STOP = "STOP"
"""File of a run that asks it to save and leave (see launcher.storage.stop_file)."""
COLLECTIVES = "logs/nccl_trace_rank_"
"""Prefix of the files of a run, followed by the rank, with the last collectives before a timeout of NCCL."""
STACKS = "stacks-rank"
"""Prefix of the files in the logs of a run, followed by the rank, with the Python stacks of a rank that hung."""
COMPLETE, STATE = "COMPLETE", "state.json"
"""Files of each checkpoint beside its tensors and its recipe."""
EXIT_CODE, ERROR, RESTART = "code", "error", "again"
"""Files of a start (see `start_name`) that the agent of the first node writes for the batch script: the exit code, the
last message, and, if the job should start again, the hosts to leave out."""
NODE_REPORT, NODE_VERDICT, NODE_OUTCOME = "report", "verdict", "ended"
"""Kinds of messages of a start that modules other than launcher.distributed.node_rendezvous read."""

BUNDLE = "bundle.json"
"""The file that marks a bundle."""
ARCHITECTURES, COMMITS, FINGERPRINTS, MODELS, PREPARED = (
    "architectures", "commits", "fingerprints", "models", "prepared",
)  # fmt: skip
CACHED = (ARCHITECTURES, COMMITS, FINGERPRINTS, MODELS, PREPARED)
"""Folders of the cache. They are listed because the cache may share its parent folder with a project."""


def cache() -> Path:
    """Return the folder of files that can be created again: $LAUNCHER_CACHE, else ~/.cache/launcher.

    Raises UserError if the home folder is not known.
    """
    folder = expanded(os.environ.get(env_vars.CACHE, "~/.cache/launcher"))
    if folder.parts[:1] and folder.parts[0].startswith("~"):
        raise UserError(f"the cache: {folder}: the home folder is not known (set HOME, or LAUNCHER_CACHE)")
    return folder


def start_name(job: str, number: int | str) -> str:
    """Return the name of a start's folder below `jobs`, in which its nodes exchange messages."""
    return f"{job}-{number}"


def node_message(kind: str, node: int | str) -> str:
    """Return the name of a node's message of this kind."""
    return f"{kind}-{node}"


def message_file(message: str) -> str:
    """Return the file name of a message."""
    return f"{message}.json"


def submitted_script(number: int | str) -> str:
    """Return the name of a submission's script below `jobs`."""
    return f"submit-{number}.sbatch"


def job_output(id: str) -> str:
    """Return the name of a job's output file below `logs`. `id`: the scheduler's id of the job."""
    return f"job-{id}.log"
