"""Loading of the model of a checkpoint into this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launcher.config import load, plugins
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import attention_kernels, model_requirements
from launcher.plan.facts import Facts, of_run
from launcher.storage import sound_checkpoints
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch

    from launcher.tasks import Task


@dataclass(frozen=True)
class TrainedModel:
    """A run with the model of a checkpoint. `model`: in eval mode, in the precision of the checkpoint, with merged
    adapters."""

    folder: RunDir
    saved: SavedCheckpoint
    recipe: Recipe
    facts: Facts
    model: "torch.nn.Module"

    @property
    def auto_class(self) -> str:
        """The transformers auto class of the task's models; empty: there is none."""
        return plugins.task(self.recipe.inner_task).auto_class

    def task(self) -> "Task":
        """Return a new instance of the run's task, which is not prepared for a model yet. For a distillation, it is the
        task of the student. It has the run's tokenizer if it uses one."""
        from launcher.prepare import tokenizer

        task = plugins.task(self.recipe.inner_task)(self.recipe.inner_task, self.facts)
        if task.uses_tokenizer:  # otherwise it would load the tokenizer of the prepared data
            task.tokenizer = tokenizer.load(str(self.folder.tokenizer), "tokenizer")
        return task


def is_transformers(model: "torch.nn.Module") -> bool:
    """Return whether transformers can save and load the model."""
    import transformers

    return isinstance(model, transformers.PreTrainedModel)


def is_encoder_decoder(model: "torch.nn.Module") -> bool:
    """Return whether the model is a transformers model with an encoder and a decoder."""
    return is_transformers(model) and bool(model.config.is_encoder_decoder)


def report_best(folder: RunDir, saved: SavedCheckpoint, which: str | int, console: Console) -> None:
    """Print a note if the best checkpoint was requested, but a better step has no checkpoint."""
    if note := best_note(folder, saved, which):
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def best_note(folder: RunDir, saved: SavedCheckpoint, which: str | int) -> str | None:
    """Return a note if the best checkpoint was requested, but the best evaluation was at a step without one; else
    None."""
    from launcher.train import early_stopping

    recipe = load.stored(folder.recipe).value
    evaluate, name = recipe.evaluate, f"eval/{recipe.evaluate.metric}"
    values = {line["step"]: line[name] for line in folder.lines() if "loss" not in line and line.get(name) is not None}
    if which != "best" or not values:
        return None
    directions = plugins.task(recipe.task)(recipe.task, of_run(folder.path)).directions()
    losses = {
        step: early_stopping.value({evaluate.metric: value}, evaluate, directions) for step, value in values.items()
    }
    step = min(losses, key=losses.__getitem__)
    if losses.get(saved.step) == losses[step]:
        return None
    what = f"{evaluate.metric.replace('_', ' ')} was best at step {step}, of which no checkpoint is there"
    return f"note: {what}: step {saved.step} is taken (evaluate.save_best keeps the best)"


def load_run(run: str, which: str | int) -> TrainedModel:
    """Load the model of a checkpoint (best, latest, or a step), without the data on which it was trained. Raises
    UserError."""
    from launcher.models import run as run_model
    from launcher.tasks import _padded_attention
    from launcher.train import kernel_settings
    from launcher.train.precision import STORED

    folder = RunDir(Path(run))
    for needed in (folder.recipe, folder.facts):
        if not needed.is_file():
            raise UserError(f"{run}: no run is there (it has no {needed.name})")
    saved = sound_checkpoints.verified(folder, which)
    recipe, facts = load.stored(folder.recipe).value, of_run(folder.path)
    kernel_settings.apply(recipe.train)
    config = run_model.Config(
        run=str(folder.path), checkpoint=saved.step,
        attention=attention_kernels.portable(recipe.model.attention_kernel),  # exports run on the CPU
        trust_remote_code=recipe.model.trusted_source is not None,
        batch_norm="frozen",  # nothing trains here, so that the statistics stay as in the run
    )  # fmt: skip
    _padded_attention.register()
    model, notes = run_model.Model(config).build(model_requirements.of(recipe, facts))
    if missing := [note for note in notes if note.startswith("new weights")]:
        raise UserError(f"{saved.path}: does not hold the whole model: {missing[0]}")
    return TrainedModel(folder, saved, recipe, facts, model.to(dtype=STORED[recipe.train.precision]).eval())
