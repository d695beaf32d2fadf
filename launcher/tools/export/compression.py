"""Compressed exports: pruned, with int8 weights, as ONNX, or with several of these.

The weights are written and read again. The resulting model is measured next to the original one.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launcher.config.errors import UserError
from launcher.config.format import human
from launcher.models._transformers import save_configuration
from launcher.plan import attention_kernels
from launcher.tools.export import card_snippets, export_benchmark, model_card
from launcher.tools.export.export_benchmark import Benchmark, MeasuredModel
from launcher.tools.export.exporter import Exporter, check_norms
from launcher.tools.trained_model import TrainedModel, is_encoder_decoder, is_transformers, load_run

if TYPE_CHECKING:
    import torch

    Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class CompressionOptions:
    """Kinds of compression. `prune`: fraction of the entries of matrices to set to zero. `int8`: quantise the weights
    of linear layers. `onnx`: write an ONNX graph. str() returns words for the default folder name; empty: no
    compression."""

    prune: float | None = None
    int8: bool = False
    onnx: bool = False

    def __str__(self) -> str:
        words = {
            f"pruned-{self.prune or 0:g}": self.prune is not None,
            "onnx": self.onnx,
            "int8": self.int8,
        }
        return "-".join(word for word, wanted in words.items() if wanted)


class CompressedExporter(Exporter):
    """Exporter of a compressed checkpoint. `model`: the original model, in fp32 on the CPU."""

    def __init__(self, run: str, which: str | int, options: CompressionOptions, benchmark: bool):
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DS_ACCELERATOR": "cpu"}  # quiet imports
        self._trained, self._options, self._measure = load_run(run, which), options, benchmark
        self.folder, self.saved, self.recipe = self._trained.folder, self._trained.saved, self._trained.recipe
        _check(self._trained, options)
        self._benchmark = Benchmark(self._trained) if benchmark or options.onnx else None
        self._inputs: Inputs = self._benchmark.example_inputs() if self._benchmark and options.onnx else {}
        self.model = self._trained.model.float().cpu()
        self._rows: list[MeasuredModel] = []
        self._changes: list[str] = []
        self._method: list[str] = []

    def write_weights(self, to: Path, shard_bytes: int, console: Console) -> None:
        name, model = str(self._options), copy.deepcopy(self.model)
        with console.status(f"making it {name}") as status:
            if self._options.prune:
                self._changes.append(_prune(model, self._options.prune))
            compressed = self._convert(model, to, shard_bytes)
            sizes = {"original": _state_bytes(self.model), name: _file_bytes(to)}
            if self._benchmark is None or not self._measure:
                self._rows = [MeasuredModel(*row) for row in sizes.items()]
                return
            models = {"original": self.model, name: compressed}
            self._rows = self._benchmark.measure(models, sizes, status.update)
            self._method.append(self._benchmark.description)

    def _convert(self, model: "torch.nn.Module", to: Path, shard_bytes: int) -> "torch.nn.Module":
        """Write the weights and their configuration. Returns the model loaded from these files."""
        if self._options.onnx:
            from launcher.tools.export import onnx_export

            if is_transformers(model):
                save_configuration(model, to)
            onnx_export.write(model, self._inputs, to / "model.onnx")
            if self._options.int8:
                onnx_export.quantize(to / "model.onnx")
            return onnx_export.Session(to / "model.onnx")
        auto_class = self._trained.auto_class
        attention = attention_kernels.portable(self.recipe.model.attention_kernel)
        if self._options.int8:
            from launcher.tools.export import int8

            int8.save(int8.quantized(model), auto_class, to)
            return int8.load(to, attention)
        import transformers

        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(to, max_shard_size=shard_bytes)
        kernel = {"attn_implementation": attention} if attention else {}
        read: torch.nn.Module = getattr(transformers, auto_class).from_pretrained(to, trust_remote_code=False, **kernel)
        return read.eval()

    def card(self) -> str:
        options, tokenized = self._options, self.folder.tokenizer.is_dir()
        lines = card_snippets.compressed_lines(self._trained.auto_class, tokenized, options.onnx, options.int8)
        table = model_card.table(*export_benchmark.cells(self._rows))
        paragraphs = [*_describe_input(self._trained, self._inputs), *self._changes, table, *self._method]
        return model_card.compressed_card(self._trained, self.model, str(options), lines, paragraphs)

    def summary(self, to: Path) -> str:
        before, after = self._rows
        return f"{human(after.size)} of weights, {human(before.size)} before; "

    def show(self, console: Console) -> None:
        export_benchmark.show(self._rows, [*self._changes, *self._method], console)


def _check(trained: TrainedModel, options: CompressionOptions) -> None:
    """Raise UserError for options that do not suit the model."""
    import torch

    model, name = trained.model, type(trained.model).__name__
    if options.prune is not None and not 0 < options.prune < 1:
        raise UserError(f"--prune {options.prune}: should be a share between 0 and 1, such as 0.3")
    if options.onnx:
        from launcher.tools.export import onnx_export

        onnx_export.check_installed()
        if is_encoder_decoder(model):
            raise UserError(f"--format onnx: {name} decodes token by token, which one ONNX graph cannot (leave it out)")
    elif not is_transformers(model):
        raise UserError(f"{trained.folder.path}: {name} is no transformers model (take --format onnx)")
    else:
        check_norms(trained.folder)
    if options.int8 and not any(type(module) is torch.nn.Linear for module in model.modules()):
        raise UserError(f"--quantize int8: {name} has no linear layer that could be")


def _prune(model: "torch.nn.Module", fraction: float) -> str:
    """Set the smallest entries of all matrices together to zero (global magnitude pruning). An embedding that is also
    the matrix of the head is not pruned. Returns a note."""
    import torch
    from torch.nn.utils import prune
    from transformers.pytorch_utils import Conv1D

    embedded = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    kinds = (torch.nn.Linear, Conv1D, torch.nn.modules.conv._ConvNd)
    matrices = [(m, "weight") for m in model.modules() if isinstance(m, kinds) and id(m.weight) not in embedded]
    prune.global_unstructured(matrices, prune.L1Unstructured, amount=fraction)
    for module, name in matrices:
        prune.remove(module, name)
    zeros = sum(int((module.weight == 0).sum()) for module, _ in matrices)
    entries = sum(module.weight.numel() for module, _ in matrices)
    return f"{zeros:,} of {entries:,} entries of {len(matrices)} matrices are zero"


def _state_bytes(model: "torch.nn.Module") -> int:
    """Return the bytes of the weights in a file. Shared tensors count once."""
    return sum({id(t): t.nbytes for t in model.state_dict(keep_vars=True).values()}.values())


def _file_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.name.startswith("model"))


def _describe_input(trained: TrainedModel, inputs: "Inputs") -> Sequence[str]:
    """Return a line about the input of an ONNX graph of images, because onnxruntime has no image processor; empty for
    others."""
    normalization = trained.recipe.inner_task.normalization
    if len(inputs) != 1 or len(trained.facts.shape) != 3 or normalization is None:
        return []
    mean, deviation = normalization
    ((name, values),) = inputs.items()
    shape = ", ".join(["samples", *map(str, values.shape[1:])])
    how = f"pixels from 0 to 1, less the mean {mean}, over the deviation {deviation}, each by channel"
    return [f"Its input is `{name}`, float32 of shape ({shape}): {how}."]
