"""The spikes after which a run went back to an earlier checkpoint: RUN/roll_backs.json.

The file is written before anything is trained again. So a start that follows a kill leaves out the same steps. They are
facts of the run: the trajectory is a function of the seed, the step and the steps left out.
"""

import json
from collections.abc import Collection
from contextlib import suppress

from launcher.config import strict_json
from launcher.config.atomic_files import write
from launcher.config.strict_json import DamagedFile
from launcher.config.types import JsonObject
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import RollBack, RollBacks

_HINT = "restore it, or begin the run anew in another folder"


def read(folder: RunDir) -> list[RollBack]:
    """Return the spikes in their order; empty: training never went back. Raises DamagedFile."""
    if not strict_json.exists(folder.roll_backs):
        return []
    return strict_json.read(folder.roll_backs, RollBacks, _HINT).spikes


def left_out(folder: RunDir) -> list[int]:
    """Return the steps that are left out, in ascending order. Raises DamagedFile."""
    return sorted({step for spike in read(folder) for step in range(spike.first, spike.step + 1)})


def add(folder: RunDir, spike: RollBack) -> None:
    """Record a spike, flushed to disk."""
    known = RollBacks(spikes=[*read(folder), spike])
    write(folder.roll_backs, json.dumps(known.model_dump(), indent=1))


def remove_abandoned(folder: RunDir) -> None:
    """Remove the checkpoints that have trained steps which are left out now. One with a damaged state stays: whoever
    verifies it sets it aside."""
    steps = left_out(folder)
    for saved in folder.whole() if steps else []:
        with suppress(DamagedFile):
            if is_abandoned(saved.state, steps):
                saved.remove()


def is_abandoned(state: JsonObject, left_out: Collection[int]) -> bool:
    """Return whether a state has trained steps that are left out now. `state`: see CheckpointState."""
    return not {step for step in left_out if step <= state["step"]} <= set(state.get("left_out", []))


def in_a_row(spikes: list[RollBack]) -> int:
    """Return how many spikes at the end of a list followed one another, each directly after the steps that were left
    out for the one before."""
    count = min(1, len(spikes))
    for earlier, later in zip(reversed(spikes[:-1]), reversed(spikes), strict=False):
        if later.first > earlier.step + 1:
            break
        count += 1
    return count
