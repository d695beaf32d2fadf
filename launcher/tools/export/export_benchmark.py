"""Comparison of size, speed and metrics of an exported model with the original, on this CPU and the run's own data."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.prepare import run_setup
from launcher.storage import cache_root
from launcher.tools.trained_model import TrainedModel, is_encoder_decoder

if TYPE_CHECKING:
    import torch

    from launcher.tasks import Task
    from launcher.train.evaluation import Part

    Models = Mapping[str, torch.nn.Module]

_TIMED_BATCHES, ROUNDS = 4, 9
"""Number of micro-batches to time, and of rounds. The median of the rounds is reported."""


@dataclass(frozen=True)
class MeasuredModel:
    """A model with its measurements. `size`: bytes of the weights on disk. `speed`: samples per second; None: not
    measured."""

    name: str
    size: int
    speed: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Benchmark:
    """The samples on which models are measured: validation samples, or training samples if there are none."""

    def __init__(self, trained: TrainedModel):
        from launcher.plan import model_requirements
        from launcher.prepare.prepared_samples import PreparedSamples
        from launcher.tasks import _model_probes
        from launcher.train.evaluation import Parts

        recipe, facts, task = trained.recipe, trained.facts, trained.task()
        prepared = cache_root.prepared(facts.digest)
        if not prepared.is_dir():
            prepared = run_setup.reopen(trained.folder.path, 1).prepared
        self.side = "validation" if "validation" in facts.samples else "train"
        self._trained, self._samples, self._relative = (
            trained,
            PreparedSamples(prepared, self.side),
            task.needs_initial_model,
        )
        equal_lengths = _model_probes.needs_equal_lengths(task, trained.model, model_requirements.of(recipe, facts))
        self._batches: Parts = Parts(
            self._samples, task, recipe.seed, 0, 1, recipe.train.max_tokens, equal_lengths=equal_lengths
        )
        step = -(-len(self._batches) // _TIMED_BATCHES)
        self._timed = [self._batches[number] for number in range(0, len(self._batches), step)]

    @property
    def description(self) -> str:
        """Sentence that describes the measurement."""
        count = sum(len(batch.ids) for batch in self._timed)
        timed = f"{len(self._timed)} micro-batches of {count} {self.side} samples, the median of {ROUNDS} rounds"
        metrics = f"metrics of {len(self._samples):,} samples; " if self.side == "validation" else ""
        if self._relative:
            metrics = "no metrics, which are beside the model that the run began with; "
        return f"in fp32 on this CPU; {metrics}speed of {timed}"

    def example_inputs(self) -> "dict[str, torch.Tensor]":
        """Return the model inputs of one micro-batch by name. It has at least two samples, unless all micro-batches
        have one."""
        batch = next((one.batch for one in self._timed if len(one.ids) > 1), self._batches[0].batch)
        return dict(batch["inputs"])

    def measure(self, models: "Models", sizes: Mapping[str, int], report: Callable[[str], None]) -> list[MeasuredModel]:
        """Return the speed and the metrics of each model. The models are timed in turns, so that other load on the
        machine affects all of them. `sizes`: bytes on disk by name. `report`: called with a text about the current
        activity."""
        seconds: dict[str, list[float]] = {name: [] for name in models}
        tasks = {name: self._task(model) for name, model in models.items()}
        for turn in range(1 + ROUNDS):
            report(f"measuring speed: round {turn} of {ROUNDS}" if turn else "measuring speed: warming up")
            for name, model in models.items():
                begin = time.perf_counter()
                self._run(model, tasks[name], self._timed)
                seconds[name].append(time.perf_counter() - begin)
        count = sum(len(batch.ids) for batch in self._timed)
        return [
            MeasuredModel(
                name, sizes[name], count / statistics.median(seconds[name][1:]),
                self._metrics(name, model, tasks[name], report),
            )
            for name, model in models.items()
        ]  # fmt: skip

    def _metrics(
        self, name: str, model: "torch.nn.Module", task: "Task", report: Callable[[str], None]
    ) -> dict[str, float]:
        if self.side != "validation" or self._relative:
            return {}

        def batches() -> "Iterator[Part]":
            for number in range(len(self._batches)):
                report(f"measuring {name}: {number / len(self._batches):.0%}")
                yield self._batches[number]

        metrics = task.metrics(self._run(model, task, batches()))
        return {metric: value for metric, value in metrics.items() if "/" not in metric}

    def _run(self, model: "torch.nn.Module", task: "Task", batches: "Iterable[Part]") -> dict[str, list[object]]:
        """Return the task's outputs for all samples; empty for a task whose metrics are not computed."""
        import torch

        from launcher.distributed.process_group import ProcessGroup
        from launcher.train import evaluation

        if not self._relative:
            return evaluation.outputs(model, task, batches, ProcessGroup(0, 1, torch.device("cpu")), "fp32")
        with torch.no_grad():
            for batch in batches:
                model(**batch.batch["inputs"])
        return {}

    def _task(self, model: "torch.nn.Module") -> "Task":
        """Return the run's task. Only an encoder-decoder is prepared, to find the decoder's start token. The rest of
        `prepare_model` makes training cheaper, and does not apply to an ONNX session."""
        task = self._trained.task()
        if is_encoder_decoder(model):
            task.prepare_model(model, self._batches[0].batch)
        return task


def cells(rows: Sequence[MeasuredModel]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the rows of a table of models."""
    speeds = [[] if row.speed is None else [f"{row.speed:,.0f}"] for row in rows]
    head = ("model", "MiB", *(["samples/s"] if speeds[0] else []), *rows[0].metrics)
    return head, [
        (row.name, f"{row.size / 2**20:.2f}", *speed, *(f"{value:.4f}" for value in row.metrics.values()))
        for row, speed in zip(rows, speeds, strict=True)
    ]


def show(rows: Sequence[MeasuredModel], notes: Sequence[str], console: Console) -> None:
    """Print the table of models, and notes below it."""
    (first, *others), lines = cells(rows)
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(escape(name.replace("_", " ")), justify="right", overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
