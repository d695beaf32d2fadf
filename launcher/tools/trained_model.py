"""A checkpoint's model in this process: for predictions, and to be made small."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from launcher.config import load, plugins
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import model_requirements
from launcher.plan.facts import Facts, of_run
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainedModel:
    """`model`: as it was trained, in eval mode, in the precision that it was stored in; adapters are merged."""

    folder: RunDir
    saved: SavedCheckpoint
    recipe: Recipe
    facts: Facts
    model: "torch.nn.Module"

    def task(self) -> Any:
        """The run's task, not attached to any model, with the tokenizer of the run's folder where it asks for one; of a
        distillation the one that the student learns."""
        from launcher.prepare import tokenizer

        task = plugins.task(self.recipe.inner_task)(self.recipe.inner_task, self.facts)
        if task.uses_tokenizer:  # of itself it would look for the prepared data's
            task.tokenizer = tokenizer.load(str(self.folder.tokenizer), "tokenizer")
        return task


def tell_best(folder: RunDir, saved: SavedCheckpoint, which: str | int, console: Console) -> None:
    """Say it where the best was asked for and is not what is taken."""
    if note := beside_best(folder, saved, which):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def beside_best(folder: RunDir, saved: SavedCheckpoint, which: str | int) -> str | None:
    """A note where the best was asked for, and the best evaluation was at a step whose weights were not kept."""
    from launcher.train import early_stopping

    recipe = load.stored(folder.recipe).value
    evaluate, name = recipe.evaluate, f"eval/{recipe.evaluate.metric}"
    told = {line["step"]: line[name] for line in folder.lines() if "loss" not in line and line.get(name) is not None}
    if which != "best" or not told:
        return None
    facts = of_run(folder.path)
    directions = plugins.task(recipe.task)(recipe.task, facts).directions()
    found = {step: early_stopping.value({evaluate.metric: value}, evaluate, directions) for step, value in told.items()}
    step = min(found, key=found.__getitem__)
    if found.get(saved.step) == found[step]:
        return None
    what = f"{evaluate.metric.replace('_', ' ')} was best at step {step}, of which no checkpoint is there"
    return f"note: {what}: step {saved.step} is taken (evaluate.save_best keeps the best)"


def load_run(run: str, which: str | int) -> TrainedModel:
    """The model of a checkpoint (best, latest, or a step). The data that it was trained on is not needed. Raises
    UserError."""
    from launcher.models import run as trained
    from launcher.train.precision import STORED

    folder = RunDir(Path(run))
    for needed in (folder.recipe, folder.facts):
        if not needed.is_file():
            raise UserError(f"{run}: no run is there (it has no {needed.name})")
    saved = folder.saved(which)
    recipe = load.stored(folder.recipe).value
    facts = of_run(folder.path)
    attention = getattr(recipe.model, "attention", None)
    # frozen: nothing trains here, so statistics of batches stay as they are, whatever kept them in the run
    options = {"attention": attention, "trust_remote_code": getattr(recipe.model, "trust_remote_code", False)}
    config = trained.Config(run=str(folder.path), checkpoint=saved.step, batch_norm="frozen", **options)
    model, notes = trained.Model(config).build(model_requirements.of(recipe, facts))
    if missing := [note for note in notes if note.startswith("new weights")]:
        raise UserError(f"{saved.path}: does not hold the whole model: {missing[0]}")
    return TrainedModel(folder, saved, recipe, facts, model.to(dtype=STORED[recipe.train.precision]).eval())
