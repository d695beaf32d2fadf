"""An export made small: pruned, with int8 weights, as ONNX, or several of these; and what that costs.

Beside the original, on this CPU, is told how large it is, and where that is measured how fast, and what its metrics on
the run's validation data are: of what was written, read again from its files.
"""

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from launcher.config.errors import UserError
from launcher.config.format import human
from launcher.models._transformers import save_configuration
from launcher.prepare import run_setup
from launcher.storage import cache
from launcher.storage.run_dir import RunDir
from launcher.tools import card_snippets, model_card
from launcher.tools import export as plain
from launcher.tools.export_inputs import add_inputs
from launcher.tools.trained_model import TrainedModel, load_run, tell_best

if TYPE_CHECKING:
    import torch

_TIMED, _ROUNDS = 4, 9
"""Micro-batches that are timed, and how often: the median counts."""


@dataclass(frozen=True)
class CompressionOptions:
    """`prune`: the share of the weights of matrices that become zero; `int8`; `onnx`."""

    prune: float | None = None
    int8: bool = False
    onnx: bool = False

    def __str__(self) -> str:
        parts = [f"pruned-{self.prune:g}"] if self.prune is not None else []
        return "-".join([*parts, *["onnx"] * self.onnx, *["int8"] * self.int8])


@dataclass(frozen=True)
class MeasuredModel:
    """`size`: bytes of the weights on disk; `speed`: samples a second; None: not measured."""

    name: str
    size: int
    speed: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def export(
    run: str, which: str | int, to: Path | None, shard_size: str, wanted: CompressionOptions, console: Console,
    benchmark: bool = True,
) -> str:  # fmt: skip
    """Export a checkpoint as wanted; as it is where nothing is. The folder appears whole or not at all. `benchmark`:
    measure what it costs, on the prepared data. Returns the line that says what was made. Raises UserError."""
    if not str(wanted):
        line = plain.export(run, which, to, shard_size, console)
        folder = RunDir(Path(run))
        tell_best(folder, folder.saved(which), which, console)
        return line
    to = to or Path(run) / f"export-{wanted}"
    final = plain.place(to)
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DS_ACCELERATOR": "cpu"}  # whose imports else say what they chose
    trained = load_run(run, which)
    _check(trained, wanted)
    samples = _Samples(trained) if benchmark or wanted.onnx else None
    inputs = samples.inputs() if samples and wanted.onnx else {}
    original = trained.model.float().cpu()
    model = copy.deepcopy(original)
    with plain.aside_of(final, to) as aside, console.status(f"making it {wanted}") as status:
        notes = [_prune(model, wanted.prune)] if wanted.prune else []
        made = _write(trained, model, wanted, inputs, aside, shard_size)
        models = {"original": (original, _bytes(original)), str(wanted): (made, _weights(aside))}
        rows, what = [MeasuredModel(name, size) for name, (_, size) in models.items()], list[str]()
        if benchmark and samples:
            rows, what = samples.measure(models, status.update), [samples.what]
        add_inputs(trained.folder, trained.recipe, original, aside)
        told = [*_given(trained, inputs), *notes, model_card.table(_head(rows), _cells(rows)), *what]
        auto, tokenized = trained.task().auto_class, trained.folder.tokenizer.is_dir()
        lines = card_snippets.small_lines(auto, tokenized, wanted.onnx, wanted.int8)
        text = model_card.small(trained, original, str(wanted), lines, told)
        (aside / "README.md").write_text(text, encoding="utf-8")
        for file in aside.iterdir():
            file.chmod((aside / "README.md").stat().st_mode)  # safetensors lets the owner alone read
    _show(rows, [*notes, *what], console)
    tell_best(trained.folder, trained.saved, which, console)
    return (
        f"{to}: {human(rows[1].size)} of weights, {human(rows[0].size)} before; checkpoint of step {trained.saved.step}"
    )


def _check(trained: TrainedModel, wanted: CompressionOptions) -> None:
    """Raises UserError for what does not go together."""
    import torch

    model = trained.model
    config = getattr(model, "config", None)
    name = type(model).__name__
    if wanted.prune is not None and not 0 < wanted.prune < 1:
        raise UserError(f"--prune {wanted.prune}: should be a share between 0 and 1, such as 0.3")
    if wanted.onnx:
        from launcher.tools import onnx_export

        onnx_export.check_installed()
        if getattr(config, "is_encoder_decoder", False):
            raise UserError(f"--format onnx: {name} decodes token by token, which one ONNX graph cannot (leave it out)")
    elif not hasattr(config, "save_pretrained"):
        raise UserError(f"{trained.folder.path}: {name} is no transformers model (take --format onnx)")
    else:
        plain.check_norms(trained.folder)
    if wanted.int8 and not any(type(module) is torch.nn.Linear for module in model.modules()):
        raise UserError(f"--quantize int8: {name} has no linear layer that could be")


def _prune(model: "torch.nn.Module", share: float) -> str:
    """Make the smallest of all matrix entries zero (global magnitude pruning). An embedding that is also the head's
    matrix stays. Returns a note."""
    import torch
    from torch.nn.utils import prune
    from transformers.pytorch_utils import Conv1D

    embedded = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    kinds = (torch.nn.Linear, Conv1D, torch.nn.modules.conv._ConvNd)
    matrices = [(m, "weight") for m in model.modules() if isinstance(m, kinds) and id(m.weight) not in embedded]
    prune.global_unstructured(matrices, prune.L1Unstructured, amount=share)
    for module, name in matrices:
        prune.remove(module, name)
    zeros = sum(int((module.weight == 0).sum()) for module, _ in matrices)
    entries = sum(module.weight.numel() for module, _ in matrices)
    return f"{zeros:,} of {entries:,} entries of {len(matrices)} matrices are zero"


def _write(
    trained: TrainedModel, model: Any, wanted: CompressionOptions, inputs: dict[str, Any], folder: Path, shard_size: str
) -> "torch.nn.Module":
    """Write the weights and their configuration. Returns the model as it is read again from these files."""
    if wanted.onnx:
        from launcher.tools import onnx_export

        file = folder / "model.onnx"
        if hasattr(getattr(model, "config", None), "save_pretrained"):
            save_configuration(model, folder)
        onnx_export.write(model, inputs, file)
        if wanted.int8:
            onnx_export.quantize(file)
        return onnx_export.Session(file)
    auto, attention = trained.task().auto_class, getattr(trained.recipe.model, "attention", None)
    if wanted.int8:
        from launcher.tools import int8

        int8.save(int8.quantized(model), auto, folder)
        loaded: torch.nn.Module = int8.load(folder, attention)
        return loaded
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size=plain.size_of(shard_size))
    options = {"attn_implementation": attention} if attention else {}
    again: torch.nn.Module = (
        getattr(transformers, auto).from_pretrained(folder, trust_remote_code=False, **options).eval()
    )
    return again


class _Samples:
    """What models are measured on: the run's validation samples, of a run without any those of training."""

    def __init__(self, trained: TrainedModel):
        from launcher.plan import model_requirements
        from launcher.prepare.samples import Samples
        from launcher.tasks import _padding_side
        from launcher.train.evaluation import Parts

        prepared = cache.path(trained.facts.digest)
        if not prepared.is_dir():
            prepared = run_setup.reopen(trained.folder.path, 1).prepared
        self.side = "validation" if "validation" in trained.facts.samples else "train"
        self._trained, self._samples = trained, Samples(prepared, self.side)
        self._relative = trained.task().relative
        given = (self._samples, trained.task(), trained.recipe.seed, 0, 1, trained.recipe.train.max_tokens)
        equal_lengths = _padding_side.equal_lengths(
            trained.task(), trained.model, model_requirements.of(trained.recipe, trained.facts)
        )
        self._parts = Parts(*given, equal_lengths=equal_lengths)
        step = -(-len(self._parts) // _TIMED)
        self._timed = [self._parts[number] for number in range(0, len(self._parts), step)]

    @property
    def what(self) -> str:
        """What was measured, for a person."""
        count = sum(len(part.ids) for part in self._timed)
        timed = f"{len(self._timed)} micro-batches of {count} {self.side} samples, the median of {_ROUNDS} rounds"
        of = f"metrics of {len(self._samples):,} samples; " if self.side == "validation" else ""
        of = "no metrics, which are beside the model that the run began with; " if self._relative else of
        return f"in fp32 on this CPU; {of}speed of {timed}"

    def inputs(self) -> dict[str, Any]:
        """The inputs of some samples by name."""
        return dict(next((p.batch for p in self._timed if len(p.ids) > 1), self._parts[0].batch)["inputs"])

    def measure(self, models: dict[str, tuple[Any, int]], progress: Callable[[str], None]) -> list[MeasuredModel]:
        """Each model by name, beside its size. They are timed in turns, so that what else the machine does hits all.
        `progress`: is given what is being done."""
        seconds: dict[str, list[float]] = {name: [] for name in models}
        tasks = {name: self._task(model) for name, (model, _) in models.items()}
        for turn in range(1 + _ROUNDS):
            progress(f"measuring speed: round {turn} of {_ROUNDS}" if turn else "measuring speed: warming up")
            for name, (model, _) in models.items():
                begin = time.perf_counter()
                self._outputs(model, tasks[name], self._timed)
                seconds[name].append(time.perf_counter() - begin)
        count, made = sum(len(part.ids) for part in self._timed), list[MeasuredModel]()
        for name, (model, size) in models.items():
            told = self._metrics(model, tasks[name], partial(_report_share, progress, name))
            made.append(MeasuredModel(name, size, count / statistics.median(seconds[name][1:]), told))
        return made

    def _metrics(self, model: Any, task: Any, progress: Callable[[float], None]) -> dict[str, float]:
        if self.side != "validation" or self._relative:
            return {}
        found: dict[str, float] = task.metrics(self._outputs(model, task, _reported(self._parts, progress)))
        return {name: value for name, value in found.items() if "/" not in name}

    def _outputs(self, model: Any, task: Any, parts: Any) -> Any:
        import torch

        from launcher.distributed.process_group import ProcessGroup
        from launcher.train import evaluation

        if self._relative:
            with torch.no_grad():
                return [model(**part.batch["inputs"]) for part in parts]
        return evaluation.outputs(model, task, parts, ProcessGroup(0, 1, torch.device("cpu")), "fp32")

    def _task(self, model: Any) -> Any:
        """The run's task, which is told how a decoder begins. What else it could find of a model is to make training
        cheaper: no ONNX session has it, and models are compared in what they do without."""
        task = self._trained.task()
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            task.attach(model, self._parts[0].batch)
        return task


def _reported(parts: Any, progress: Callable[[float], None]) -> Iterator[Any]:
    """The micro-batches, and the share of them that is done at each."""
    for number in range(len(parts)):
        progress(number / len(parts))
        yield parts[number]


def _bytes(model: "torch.nn.Module") -> int:
    """What the weights take as a file."""
    return sum({id(t): t.nbytes for t in model.state_dict(keep_vars=True).values()}.values())


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.name.startswith("model"))


def _given(trained: TrainedModel, inputs: dict[str, Any]) -> list[str]:
    """What a graph is given of images: plain onnxruntime brings nothing that could make it."""
    normalization = trained.recipe.inner_task.normalization
    if len(inputs) != 1 or len(trained.facts.shape) != 3 or normalization is None:
        return []
    mean, deviation = normalization
    ((name, values),) = inputs.items()
    shape = ", ".join(["samples", *map(str, values.shape[1:])])
    how = f"pixels from 0 to 1, less the mean {mean}, over the deviation {deviation}, each by channel"
    return [f"Its input is `{name}`, float32 of shape ({shape}): {how}."]


def _head(rows: Sequence[MeasuredModel]) -> tuple[str, ...]:
    return ("model", "MiB", *(["samples/s"] if rows[0].speed is not None else []), *rows[0].metrics)


def _cells(rows: Sequence[MeasuredModel]) -> list[tuple[str, ...]]:
    speeds = [[] if row.speed is None else [f"{row.speed:,.0f}"] for row in rows]
    return [
        (row.name, f"{row.size / 2**20:.2f}", *speed, *(f"{value:.4f}" for value in row.metrics.values()))
        for row, speed in zip(rows, speeds, strict=True)
    ]


def _show(rows: Sequence[MeasuredModel], notes: Sequence[str], console: Console) -> None:
    first, *others = _head(rows)
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for cells in _cells(rows):
        table.add_row(*cells)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _report_share(progress: Callable[[str], None], name: str, done: float) -> None:
    progress(f"measuring {name}: {done:.0%}")
