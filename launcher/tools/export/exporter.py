"""Base class of all exports: load a checkpoint of a run, write its weights, and describe them in a model card."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launcher.config import strict_json
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch


class Exporter(ABC):
    """A checkpoint that is ready to be written. `model`: its architecture, with or without weights. `nbytes`: size of
    the weights to write; 0: not known yet."""

    folder: RunDir
    saved: SavedCheckpoint
    recipe: Recipe
    model: "torch.nn.Module"
    nbytes: int = 0

    @abstractmethod
    def write_weights(self, to: Path, shard_bytes: int, console: Console) -> None:
        """Write the weights and their configuration into a folder. Raises UserError if the model cannot be
        converted."""

    @abstractmethod
    def card(self) -> str:
        """Return the text of the model card. The weights must have been written."""

    @abstractmethod
    def summary(self, to: Path) -> str:
        """Return the beginning of a line about the written folder."""

    def show(self, console: Console) -> None:  # noqa: B027 most have nothing to show
        """Print measurements, if there are any."""


def check_norms(folder: RunDir) -> None:
    """Raise UserError for a transformers model whose batch norms were replaced by group norms."""
    advice = "a run of this recipe under another name writes one to copy"
    config = strict_json.read_object(folder.model / "config.json", advice)
    if config.get("batch_norm") == "group":
        what = "its model has groups in place of its batch norms (batch_norm: group)"
        raise UserError(f"{folder.path}: {what}, which plain transformers does not know (take --format onnx)")
