"""Distillation: another task, learnt from its labels and from what a trained model makes of the same samples (Hinton,
Vinyals and Dean, 2015).

What samples, metrics and predictions are is the inner task's: a student is compared with one that learnt alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher.config import kinds, recipe
from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin
from launcher.plan.model_requirements import ModelRequirements
from launcher.tasks import IGNORE, Batch, _teacher_model

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


class Config(Plugin):
    """`teacher`: `{run: runs/x, checkpoint: best}` or `{name: ...}`, a pretrained one. `temperature`: by which both
    models' logits are divided. `alpha`: the weight of the task's own loss; the teacher's is the rest."""

    kind: Literal["distillation"] = "distillation"
    task: recipe.Task
    teacher: _teacher_model.Teacher
    temperature: float = Field(2.0, gt=0)
    alpha: float = Field(0.5, ge=0, le=1)

    @field_validator("task")
    @classmethod
    def _of_classes(cls, value: Plugin) -> Plugin:
        if not hasattr(kinds.of("tasks", value).Task, "loss_of"):
            what = "{kind} cannot be distilled: it does not choose one of several classes at each place"
            raise PydanticCustomError("distilled", what, {"kind": value.kind})
        if getattr(value, "labels", None) == "multi":
            raise PydanticCustomError("distilled", "cannot be distilled with labels: multi (take single)")
        return value


class Task:
    """The inner task with another loss. The teacher is no part of the student: no strategy deals it, no checkpoint
    holds it."""

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        inner = kinds.of("tasks", config.task).Task
        if hasattr(inner, "check"):
            inner.check(config.task, facts, folder)
        _teacher_model.check(config.teacher, inner.auto_class, facts, folder)

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts
        self.inner = kinds.of("tasks", config.task).Task(config.task, facts)
        self._teacher: Any = None
        self._asked: Any = None

    def __getattr__(self, name: str) -> Any:
        """What is not said here is as the inner task has it."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """The inner task to the student; another one like it to the teacher, which may need other means."""
        notes: list[str] = self.inner.attach(model, batch)
        facts = self.facts
        fit = (facts.vocab_size, facts.pad_token_id, facts.longest, facts.shape)
        self._teacher = _teacher_model.build(
            self.config.teacher, ModelRequirements(self.auto_class, self.options(), *fit), model
        )
        self._asked = kinds.of("tasks", self.config.task).Task(self.config.task, facts)
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


def divergence(teacher: "torch.Tensor", student: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """T^2 * sum of KL(softmax(teacher / T) || softmax(student / T)) over the rows, a scalar: times T^2 since its
    gradient shrinks by as much (Hinton et al., 2015). Logits: shape (n, classes)."""
    from torch.nn.functional import kl_div, log_softmax

    p, q = (log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * kl_div(q, p, reduction="sum", log_target=True)
