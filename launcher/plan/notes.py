"""What a plan tells its user who may go on with it: nothing of it is a mistake."""

from launcher.config import plugins
from launcher.config.atomic_files import allocated_bytes, free_bytes
from launcher.config.format import human
from launcher.config.recipe import Recipe
from launcher.plan import memory, padding_probe, remote_code
from launcher.plan.facts import Facts, cut_notes
from launcher.plan.model_spec import Architecture
from launcher.plan.padding_probe import Padding
from launcher.storage.run_dir import RunDir

_MOST_EPOCHS = 1000
"""More than anybody means."""


def of(recipe: Recipe, shape: Architecture, folder: RunDir, known: Facts | None, steps: int | None) -> list[str]:
    """`known`: None before the data is prepared; `steps`: of the whole run, where they are known."""
    of_data = [] if known is None else [*_epochs(recipe, known, steps), *cut_notes(known), *known.notes]
    return [
        *remote_code.notes(recipe),
        *_disk(recipe, shape, folder),
        *_model(recipe, shape),
        *(plugins.schedule(recipe.schedule, steps).notes(recipe.optimizer.lr) if steps else []),
        *of_data,
    ]


def _disk(recipe: Recipe, shape: Architecture, folder: RunDir) -> list[str]:
    half_written = folder.half_written()
    notes = [f"{path}: half-written, never looked at (the next save replaces it)" for path in half_written]
    size, most = memory.checkpoint(recipe, shape), recipe.checkpoint.keep + 1
    free = free_bytes(folder.path) + sum(map(allocated_bytes, half_written))
    if size * most > free:  # one more than is kept, while the newest is being written
        notes.append(f"checkpoint: {most} of {human(size)} do not fit into the {human(free)} that are free")
    return notes


def _model(recipe: Recipe, shape: Architecture) -> list[str]:
    notes = []
    if shape.padding not in (None, Padding.RIGHT):
        notes.append(padding_probe.note(shape.name))
    if recipe.packed and shape.packs is None:
        notes.append(f"task.samples: whether {shape.name} takes packed rows is tried when the run starts")
    return notes


def _epochs(recipe: Recipe, known: Facts, steps: int | None) -> list[str]:
    """More epochs than anybody can have meant."""
    samples, there = (steps or 0) * recipe.train.global_batch, known.samples["train"]
    if samples <= _MOST_EPOCHS * there:
        return []
    what = f"each of the {there:,} training samples is seen {samples // there:,} times"
    return [f"train.steps: {what} (a model learns them by heart: fewer steps, or more data)"]
