"""Distillation: learn from labels and from the outputs of a trained model (Hinton, Vinyals and Dean, 2015).

Samples, metrics and predictions are those of the inner task. So a student can be compared with a model trained without
a teacher.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher.config import plugins, recipe
from launcher.config.errors import Problem, UserError
from launcher.config.model import ModelConfig
from launcher.config.types import TaskConfig
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import IGNORE, Batch, Sample, _teacher_model
from launcher.tasks._wrapping_task import WrappingTask

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


class Config(TaskConfig):
    """Another task, learnt from its labels and from a teacher model's logits."""

    kind: Literal["distillation"] = "distillation"
    task: recipe.Task
    """Task that teacher and student share."""
    teacher: _teacher_model.Teacher
    """Teacher model: `{run: runs/x, checkpoint: best}`, or `{name: ...}` for a pretrained model."""
    temperature: float = Field(2.0, gt=0)
    """Divisor of both models' logits."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the task's own loss. The weight of the divergence from the teacher is 1 - alpha."""

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


class Task(WrappingTask[Config]):
    """The inner task with another loss. The teacher is not part of the student: no strategy shards it, and no
    checkpoint contains it."""

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        inner = plugins.task(config.task)
        inner.check(config.task, facts, folder)
        _teacher_model.check(config.teacher, inner.auto_class, facts, folder)

    def __init__(self, config: Config, facts: "Facts"):
        super().__init__(config, facts)
        self._teacher: torch.nn.Module | None = None
        self._teacher_task = self.inner
        """A second instance of the inner task, prepared for the teacher."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return _with_labelled(self.inner.collate(samples))

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

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor | float]":
        """Return alpha * L + (1 - alpha) * D and the weight of L. L: the loss of the inner task; D: the `divergence` of
        the labelled entries."""
        student = self.inner.logits(model, batch)
        teacher = self._teacher_logits(batch)
        loss, weight = self.inner.loss_from_logits(student, batch)
        teacher, student = (logits.index_select(0, batch["labelled"]) for logits in (teacher, student))
        distance = divergence(teacher, student, self.config.temperature)
        return self.config.alpha * loss + (1 - self.config.alpha) * distance, weight

    def frozen_models(self) -> list["torch.nn.Module"]:
        return [] if self._teacher is None else [self._teacher]

    def _teacher_logits(self, batch: Batch) -> "torch.Tensor":
        import torch

        assert self._teacher is not None, "prepare_model comes first"
        with torch.no_grad():
            return self._teacher_task.logits(self._teacher, batch)

    def _check_classes(self, model: "torch.nn.Module", batch: Batch) -> None:
        """Raise UserError if student and teacher have different numbers of classes."""
        import torch

        with torch.no_grad():
            student = self.inner.logits(model, batch).shape[-1]
        teacher = self._teacher_logits(batch).shape[-1]
        if student != teacher:
            what = f"has {teacher} classes, and the student {student}"
            raise UserError(Problem("task.teacher", f"{what} (for texts: model.vocab_size)"))


def _with_labelled(batch: Batch) -> Batch:
    """Return the micro-batch of an inner task with `labelled`, the indices of the entries with a label, so that the
    device does not have to find them."""
    return {**batch, "labelled": np.flatnonzero(batch["labels"] != IGNORE)}


def divergence(teacher: "torch.Tensor", student: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Return T^2 * sum of KL(softmax(teacher / T) || softmax(student / T)) over the rows, a scalar. The factor T^2
    compensates for the gradient's factor of 1 / T^2 (Hinton et al., 2015). Logits: shape (n, classes)."""
    from torch.nn.functional import kl_div, log_softmax

    p, q = (log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * kl_div(q, p, reduction="sum", log_target=True)
