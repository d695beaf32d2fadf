"""An earlier run whose steps cost what those of a plan will: the same model and data on the same devices."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.config import paths
from launcher.config.errors import UserError
from launcher.plan.plan import Plan
from launcher.storage import goodput, ledger
from launcher.storage.ledger import OF_STEPS
from launcher.storage.run_dir import RunDir

_SAME = (
    "prepared", "model", "parameters", "trained", "precision", "global_batch", "strategy", "mesh", "tensor_parallel",
    "cluster", "nodes", "devices_per_node", "ranks", "device", "micro_batches", "micro_samples", "threads",
)  # fmt: skip
"""Keys of a plan that decide what a step costs."""
_ENOUGH_STEPS = 20
"""Number of steps from which their cost is measured."""
_LOOKED_AT = 100
"""Maximum number of earlier runs to look at, the newest first."""
_MOST_BYTES = 16 * 2**20
"""Maximum size of a ledger to read."""


@dataclass(frozen=True)
class EarlierRun:
    """Seconds of an earlier run. `step`: of an optimiser step; `besides`: of saves and evaluations, for each second of
    steps; `start`: from the command to the first step."""

    folder: Path
    step: float
    besides: float
    start: float

    def seconds_of(self, steps: int) -> float:
        """Return the seconds of a run of so many steps, without failures."""
        return self.start + steps * self.step * (1 + self.besides)


def find(plan: Plan) -> EarlierRun | None:
    """Return the newest run in the folder of runs that a plan can be compared with; None: there is none."""
    if plan.prepared is None:
        return None
    wanted = json.loads(plan.model_dump_json(include=set(_SAME)))
    return next((run for folder in _newest_first() if (run := _measured(folder, wanted)) is not None), None)


def _newest_first() -> Iterator[Path]:
    """Yield the folders of the newest runs."""
    times = list[tuple[float, Path]]()
    for file in paths.RUNS.glob(f"*/{paths.PLAN}"):
        with suppress(OSError):
            times.append((file.stat().st_mtime, file.parent))
    for _, folder in sorted(times, reverse=True)[:_LOOKED_AT]:
        yield folder


def _measured(folder: Path, wanted: dict[str, object]) -> EarlierRun | None:
    """Return what a run took; None: its plan differs from the wanted values, or too few steps are recorded."""
    run = RunDir(folder)
    try:
        known = json.loads(run.plan.read_bytes())
        if {key: known.get(key) for key in _SAME} != wanted or run.ledger.stat().st_size > _MOST_BYTES:
            return None
        lines = ledger.read(run)
    except (OSError, ValueError, AttributeError, UserError):  # a damaged run says nothing about this one
        return None
    account = goodput.account(lines)
    steps = max((line.step or 0 for line in lines), default=0)
    if account is None or steps < _ENOUGH_STEPS or account.goodput == 0:
        return None
    parts = account.parts
    counted = sum(parts[purpose] for purpose in OF_STEPS)
    starts = len({line.process for line in lines if line.writer == "rank"})
    start = (parts["start"] + parts["prepare"] + parts["compile"]) / max(1, starts)
    return EarlierRun(folder, counted / steps, (parts["save"] + parts["evaluate"]) / counted, start)
