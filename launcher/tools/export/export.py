"""`launcher export`: export a checkpoint as a folder of weights, configuration, tokenizer and model card.

Every export loads the checkpoint, writes it into a hidden folder, adds its inputs and its card, and renames the folder.
Here a checkpoint is exported unchanged, streamed tensor by tensor. Smaller ones: launcher.tools.export.compression.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launcher.config import load
from launcher.config.errors import UserError
from launcher.config.format import human, plural
from launcher.config.recipe import Recipe
from launcher.models import _transformers
from launcher.plan import model_requirements
from launcher.plan.facts import of_run
from launcher.prepare import remote_code
from launcher.storage import sound_checkpoints
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.tools.checkpoint_tensors import InMemoryTensors, StoredTensors, TensorSource, write_shards
from launcher.tools.export import export_folder, model_card
from launcher.tools.export.compression import CompressedExporter, CompressionOptions
from launcher.tools.export.export_inputs import add_inputs
from launcher.tools.export.exporter import Exporter, check_norms
from launcher.tools.trained_model import report_best

if TYPE_CHECKING:
    import torch

_UNCOMPRESSED = CompressionOptions()


def export(
    run: str,
    which: str | int,
    to: Path | None,
    shard_size: str,
    console: Console,
    options: CompressionOptions = _UNCOMPRESSED,
    benchmark: bool = True,
) -> str:
    """Export a checkpoint (best, latest, or a step). Returns a line about the written folder.

    The folder appears complete or not at all. `shard_size`: maximum size of a file of weights, such as 1GiB.
    `benchmark`: measure a compressed export on the prepared data. Raises UserError, with nothing changed, if the
    checkpoint cannot be exported or the folder is in use.
    """
    shard_bytes = export_folder.shard_bytes(shard_size)
    to = to or Path(run) / (f"export-{options}" if str(options) else "export")
    final = export_folder.vacant(to)
    exporter: Exporter = (
        CompressedExporter(run, which, options, benchmark) if str(options) else CheckpointExporter(run, which)
    )
    export_folder.check_space(exporter.nbytes, final, to)
    with export_folder.staged(final, to) as aside:
        add_inputs(exporter.folder, exporter.recipe, exporter.model, aside)
        exporter.write_weights(aside, shard_bytes, console)
        (aside / "README.md").write_text(exporter.card(), encoding="utf-8")
        export_folder.share_mode(aside)
    exporter.show(console)
    report_best(exporter.folder, exporter.saved, which, console)
    return f"{to}: {exporter.summary(final)}checkpoint of step {exporter.saved.step}"


class CheckpointExporter(Exporter):
    """Exporter of a transformers model for from_pretrained. An adapter is merged into the weights."""

    def __init__(self, run: str, which: str | int):
        self.folder = RunDir(Path(run))
        _check_run(self.folder)
        self.saved = sound_checkpoints.verified(self.folder, which)
        self.recipe = load.stored(self.folder.recipe).value
        self.model = _architecture(self.folder, self.recipe)
        self._tensors = _tensors(self.folder, self.recipe, self.saved)
        self._tensors.check_names(self.model, self.saved)
        self.nbytes = self._tensors.nbytes

    def write_weights(self, to: Path, shard_bytes: int, console: Console) -> None:
        config = self.model.config
        config.architectures, config.dtype = [type(self.model).__name__], self._tensors.dtype
        _transformers.save_configuration(self.model, to)
        if self.recipe.model.trusted_source is not None:
            remote_code.copy_code(self.folder.model, to)
        write_shards(self._tensors, to, shard_bytes, console)

    def card(self) -> str:
        return model_card.checkpoint_card(self.folder, self.saved, self.recipe, self.model)

    def summary(self, to: Path) -> str:
        sizes = [file.stat().st_size for file in to.iterdir()]
        return f"{plural(len(sizes), 'file')}, {human(sum(sizes))}, "


def _check_run(folder: RunDir) -> None:
    """Raise UserError for a folder without a run, and for a run whose model is not a transformers model."""
    if folder.recipe.is_file() and folder.facts.is_file() and not folder.model.is_dir() and folder.whole():
        model = load.stored(folder.recipe).value.model
        kind = f"{model.kind} {model.origin}".strip()
        what = f"its model is no transformers model ({kind}), which alone can be a folder for it"
        raise UserError(f"{folder.path}: {what} (take --format onnx)")
    for needed in (folder.recipe, folder.facts, folder.model / "config.json"):
        if not needed.exists():
            raise UserError(f"{folder.path}: no run of a transformers model is there (it has no {needed.name})")
    of_run(folder.path)
    model_card.environment(folder)
    check_norms(folder)


def _architecture(folder: RunDir, recipe: Recipe, device: str = "meta") -> "torch.nn.Module":
    """Return the task's transformers model with the configuration of the run, on the meta device by default. Raises
    UserError if it needs code that is not trusted."""
    import torch
    import transformers

    needs, trusted = model_requirements.of(recipe, of_run(folder.path)), recipe.model.trusted_source is not None
    with torch.device(device), remote_code.refused(folder.model, "config.json", "model", "model"):
        config = transformers.AutoConfig.from_pretrained(folder.model, trust_remote_code=trusted)
        if not trusted:
            remote_code.refuse_kernels(folder.model, "model")
        config.problem_type = needs.options.get("problem_type")  # older versions did not set it
        if recipe.model.kind == "config":
            _transformers.set_token_ids(config, needs, given=recipe.model.model_extra or {})
        model = getattr(transformers, needs.auto_class).from_config(config, trust_remote_code=trusted)
    _transformers.take_generation(model, folder.model, needs)
    return _transformers.complete(model, needs)


def _tensors(folder: RunDir, recipe: Recipe, saved: SavedCheckpoint) -> TensorSource:
    stored = StoredTensors(saved)
    if recipe.model.adapter is None:
        return stored
    from launcher.models import _peft
    from launcher.train import checkpoint

    model = _architecture(folder, recipe, "cpu")
    _peft.inject(model, recipe.model.adapter)
    stored.check_names(model, saved)
    checkpoint.load_weights(model, saved)
    _peft.merge(model)
    return InMemoryTensors(model)
