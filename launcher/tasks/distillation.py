"""Distillation: another task, learnt from its labels and from what a trained model makes of the same samples (Hinton,
Vinyals and Dean, 2015).

What samples, metrics and predictions are is the inner task's: a student is compared with one that learnt alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher import tasks
from launcher.config import plugins, recipe
from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin, TaskConfig
from launcher.contract.random import Draw
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import IGNORE, Batch, Directions, Features, Outputs, Row, Sample, _teacher_model

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


class Config(TaskConfig):
    """Another task, learnt from the labels and from a teacher model's logits."""

    kind: Literal["distillation"] = "distillation"
    task: recipe.Task
    """Task that teacher and student share."""
    teacher: _teacher_model.Teacher
    """Teacher: `{run: runs/x, checkpoint: best}`, or `{name: ...}` for a pretrained one."""
    temperature: float = Field(2.0, gt=0)
    """Divisor of both models' logits."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the task's own loss. The teacher's has 1 - alpha."""

    @property
    def held(self) -> TaskConfig:
        return self.task

    @property
    def teacher_model(self) -> Plugin:
        return self.teacher

    @field_validator("task")
    @classmethod
    def _of_classes(cls, value: TaskConfig) -> TaskConfig:
        if not plugins.task(value).distillable:
            what = "{kind} cannot be distilled: it does not choose one of several classes at each place"
            raise PydanticCustomError("distilled", what, {"kind": value.kind})
        if value.multi_label:
            raise PydanticCustomError("distilled", "cannot be distilled with labels: multi (take single)")
        return value


class Task(tasks.Task):
    """The inner task with another loss. The teacher is no part of the student: no strategy shards it, no checkpoint
    holds it. Preparation asks the inner task itself, but for `check`."""

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        inner = _inner(config)
        inner.check(config.task, facts, folder)
        _teacher_model.check(config.teacher, inner.auto_class, facts, folder)

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts
        self.inner: tasks.Task = plugins.task(config.task)(config.task, facts)
        for name in ("columns", "targets", "surveyed", "tokenized", "auto_class", "relative", "ranks_answers"):
            setattr(self, name, getattr(self.inner, name))
        self._teacher: Any = None
        self._asked: Any = None

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return _inner(config).prepared(config.task)

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        return _inner(config).features(config.task, rows, survey, encoder, length, key)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _inner(config).baseline(config.task, validation, special_ids)

    def options(self) -> dict[str, Any]:
        return self.inner.options()

    def generation(self) -> dict[str, Any]:
        return self.inner.generation()

    def outputs(self, length: int) -> float:
        return self.inner.outputs(length)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return self.inner.samples(rows, epochs, ids, draw)

    def weight(self, sample: Sample) -> float:
        return self.inner.weight(sample)

    def zero_weight(self, sample: Sample) -> Sample:
        return self.inner.zero_weight(sample)

    def join(self, samples: Sequence[Sample]) -> Sample:
        return self.inner.join(samples)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.inner.collate(samples)

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        return self.inner.predict(model, batch)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return self.inner.metrics(outputs)

    def directions(self) -> Directions:
        return self.inner.directions()

    def generate(self, model: Any, batch: Batch) -> list[NDArray[np.int64]]:
        return self.inner.generate(model, batch)

    def scores(self, outputs: Outputs, tokenizer: Any) -> dict[str, float]:
        return self.inner.scores(outputs, tokenizer)

    def joined(self, predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self.inner.joined(predictions)

    def report(self, outputs: Outputs) -> dict[str, Any]:
        return self.inner.report(outputs)

    def ranked(self, outputs: Outputs, most: int) -> list[list[dict[str, Any]]]:
        return self.inner.ranked(outputs, most)

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        return self.inner.predictions(outputs, tokenizer)

    def show(self, sample: Sample, tokenizer: Any) -> str:
        return self.inner.show(sample, tokenizer)

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """The inner task to the student; another one like it to the teacher, which may need other means."""
        notes: list[str] = self.inner.attach(model, batch)
        facts = self.facts
        fit = (facts.vocab_size, facts.pad_token_id, facts.longest, facts.shape)
        self._teacher = _teacher_model.build(
            self.config.teacher, ModelRequirements(self.auto_class, self.options(), *fit), model
        )
        self._asked = plugins.task(self.config.task)(self.config.task, facts)
        notes += [f"teacher: {note}" for note in self._asked.attach(self._teacher, batch)]
        self._compare(model, batch)
        return notes

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        """alpha * L + (1 - alpha) * T^2 * sum of KL(teacher || student) over the labelled places, with both softened
        by T; the weight is that of L."""
        import torch

        student = self.inner.logits(model, batch)
        with torch.no_grad():
            teacher = self._asked.logits(self._teacher, batch)
        own, weight = self.inner.loss_of(student, batch)
        there = batch["labels"] != IGNORE
        taught = divergence(teacher[there], student[there], self.config.temperature)
        return self.config.alpha * own + (1 - self.config.alpha) * taught, weight

    def frozen_models(self) -> list["torch.nn.Module"]:
        return [self._teacher]

    def _compare(self, model: "torch.nn.Module", batch: Batch) -> None:
        """Raises UserError where the two do not tell the same number of classes apart."""
        import torch

        with torch.no_grad():
            here = self.inner.logits(model, batch).shape[-1]
            there = self._asked.logits(self._teacher, batch).shape[-1]
        if here != there:
            what = f"tells {there} classes apart, and the student {here}"
            raise UserError(Problem("task.teacher", f"{what} (for texts: model.vocab_size)"))


def _inner(config: Config) -> type[tasks.Task]:
    found: type[tasks.Task] = plugins.task(config.task)
    return found


def divergence(teacher: "torch.Tensor", student: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """T^2 * sum of KL(softmax(teacher / T) || softmax(student / T)) over the rows, a scalar: times T^2 since its
    gradient shrinks by as much (Hinton et al., 2015). Logits: shape (n, classes)."""
    from torch.nn.functional import kl_div, log_softmax

    p, q = (log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * kl_div(q, p, reduction="sum", log_target=True)
