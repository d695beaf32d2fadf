"""Run folders as jobs leave them, for tests of status and cancel."""

import json

from launcher.config.paths import COMPLETE
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

NOW = 1_800_000_000.0


def run(path, steps=100, events=(), checkpoint=None, loss=None, **state):
    """Write a run folder. `events`: (event, fields) of job 12, one minute apart, the last one a minute ago."""
    folder = RunDir(path)
    path.mkdir(parents=True)
    folder.plan.write_text(json.dumps({"name": path.name, "steps": steps}))
    if checkpoint is not None:
        save(folder, checkpoint, **state)
    if loss is not None:
        lines = [{"step": n, "loss": loss} for n in (1, min(steps, (checkpoint or 0) + 3))]
        folder.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for number, (event, fields) in enumerate(events):
        job_log.append(folder, {"event": event, "job": "12", "time": NOW - 60 * (len(events) - number), **fields})
    return folder


def save(folder, step, **state):
    """Write a complete checkpoint."""
    there = folder.checkpoints / f"step-{step:08}"
    there.mkdir(parents=True)
    (there / "state.json").write_text(json.dumps({"step": step, **state}))
    (there / COMPLETE).write_text("{}")


def started(start=0, step=0, nodes=("a", "b")):
    return "started", {"start": start, "slurm": "12", "nodes": list(nodes), "ranks": 4, "step": step}


def ended(why, step, start=0, code=75, excluded=()):
    return "ended", {"start": start, "code": code, "why": why, "step": step, "excluded": list(excluded)}


def requeued(start=0, how="requeue", next="12"):
    return "requeued", {"start": start, "how": how, "next": next}


SUBMITTED = ("submitted", {"cluster": "big", "script": "jobs/submit-1.sbatch"})
CANCELLED = ("cancelled", {})
