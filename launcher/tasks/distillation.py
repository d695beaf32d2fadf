"""Distillation: learn another task from its labels and from the outputs of a trained model on the same samples (Hinton,
Vinyals and Dean, 2015).

Samples, metrics and predictions are those of the inner task, so that a student can be compared with a model trained
without a teacher.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher import tasks
from launcher.config import plugins, recipe
from launcher.config.errors import Problem, UserError
from launcher.config.model import ModelConfig
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import (
    IGNORE,
    Batch,
    Directions,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Row,
    Sample,
    _teacher_model,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from launcher.plan.facts import Facts


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
    def teacher_model(self) -> ModelConfig:
        return self.teacher

    @field_validator("task")
    @classmethod
    def _check_distillable(cls, value: TaskConfig) -> TaskConfig:
        if not plugins.task(value).distillable:
            what = "{kind} cannot be distilled: it does not choose one of several classes at each place"
            raise PydanticCustomError("distilled", what, {"kind": value.kind})
        if value.multi_label:
            raise PydanticCustomError("distilled", "cannot be distilled with labels: multi (take single)")
        return value


class Task(tasks.Task[Config]):
    """The inner task with another loss. The teacher is not part of the student: no strategy shards it, no checkpoint
    has it. Preparation calls only `check` here, and the inner task for the rest."""

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        inner = plugins.task(config.task)
        inner.check(config.task, facts, folder)
        _teacher_model.check(config.teacher, inner.auto_class, facts, folder)

    def __init__(self, config: Config, facts: "Facts"):
        super().__init__(config, facts)
        self.inner = inner = plugins.task(config.task)(config.task, facts)
        self.columns, self.target_columns, self.survey_columns = (
            inner.columns, inner.target_columns, inner.survey_columns,
        )  # fmt: skip
        self.tokenized, self.auto_class = inner.tokenized, inner.auto_class
        self.needs_initial_model, self.has_top_predictions = inner.needs_initial_model, inner.has_top_predictions
        self._teacher: torch.nn.Module | None = None
        self._teacher_task = inner
        """A second instance of the inner task, prepared for the teacher."""

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return plugins.task(config.task).preparation_key(config.task)

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        return plugins.task(config.task).features(config.task, rows, context)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return plugins.task(config.task).baseline(config.task, validation, special_ids)

    def model_options(self) -> JsonObject:
        return self.inner.model_options()

    def generation_options(self) -> JsonObject:
        return self.inner.generation_options()

    def output_size(self, length: int) -> float:
        return self.inner.output_size(length)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return self.inner.samples(rows, epochs, ids, draw)

    def weight(self, sample: Sample) -> float:
        return self.inner.weight(sample)

    def zero_weight(self, sample: Sample) -> Sample:
        return self.inner.zero_weight(sample)

    def pack(self, samples: Sequence[Sample]) -> Sample:
        return self.inner.pack(samples)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.inner.collate(samples)

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        return self.inner.predict(model, batch)

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        return self.inner.metrics(outputs)

    def directions(self) -> Directions:
        return self.inner.directions()

    def generate(self, model: "PreTrainedModel", batch: Batch) -> "list[NDArray[np.int64]]":
        return self.inner.generate(model, batch)

    def generation_metrics(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
        return self.inner.generation_metrics(outputs, tokenizer)

    def merge_predictions(self, predictions: Sequence[JsonObject]) -> JsonObject:
        return self.inner.merge_predictions(predictions)

    def report(self, outputs: Outputs) -> JsonObject:
        return self.inner.report(outputs)

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        return self.inner.top_predictions(outputs, count)

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        return self.inner.predictions(outputs, tokenizer)

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return self.inner.render(sample, tokenizer)

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Prepare the student with the inner task, and the teacher with a second instance of it."""
        notes = self.inner.prepare_model(model, batch)
        facts = self.facts
        requirements = ModelRequirements(
            self.auto_class, self.model_options(), facts.vocab_size, facts.pad_token_id, facts.longest, facts.shape
        )
        self._teacher = _teacher_model.build(self.config.teacher, requirements, model)
        self._teacher_task = plugins.task(self.config.task)(self.config.task, facts)
        notes += [f"teacher: {note}" for note in self._teacher_task.prepare_model(self._teacher, batch)]
        self._check_classes(model, batch)
        return notes

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        """Return alpha * L + (1 - alpha) * T^2 * sum of KL(teacher || student) over the labels, with both models'
        logits divided by T. The weight is that of L."""
        student = self.inner.logits(model, batch)
        teacher = self._teacher_logits(batch)
        loss, weight = self.inner.loss_from_logits(student, batch)
        labelled = batch["labels"] != IGNORE
        distance = divergence(teacher[labelled], student[labelled], self.config.temperature)
        return self.config.alpha * loss + (1 - self.config.alpha) * distance, weight

    def frozen_models(self) -> list["torch.nn.Module"]:
        return [] if self._teacher is None else [self._teacher]

    def _teacher_logits(self, batch: Batch) -> "torch.Tensor":
        import torch

        assert self._teacher is not None, "prepare_model comes first"
        with torch.no_grad():
            return self._teacher_task.logits(self._teacher, batch)

    def _check_classes(self, model: "torch.nn.Module", batch: Batch) -> None:
        """Raises UserError where student and teacher have different numbers of classes."""
        import torch

        with torch.no_grad():
            student = self.inner.logits(model, batch).shape[-1]
        teacher = self._teacher_logits(batch).shape[-1]
        if student != teacher:
            what = f"has {teacher} classes, and the student {student}"
            raise UserError(Problem("task.teacher", f"{what} (for texts: model.vocab_size)"))


def divergence(teacher: "torch.Tensor", student: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Return T^2 * sum of KL(softmax(teacher / T) || softmax(student / T)) over the rows, a scalar. The factor T^2
    compensates for the gradient's factor of 1 / T^2 (Hinton et al., 2015). Logits: shape (n, classes)."""
    from torch.nn.functional import kl_div, log_softmax

    p, q = (log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * kl_div(q, p, reduction="sum", log_target=True)
