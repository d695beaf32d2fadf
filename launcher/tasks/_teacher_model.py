"""The teacher of a distillation: its configuration, checks against the prepared data, and the model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import SerializeAsAny
from pydantic_core import PydanticCustomError

from launcher.config import kinds, load, plugins, strict_json
from launcher.config.errors import Problem, UserError
from launcher.config.model import ModelConfig
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.config.types import Plugin
from launcher.plan import facts as run_facts
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.plan.model_requirements import ModelRequirements

_KINDS = {"run": "run", "name": "pretrained"}


def _with_kind(value: object) -> object:
    """Convert a map into a model's Config: `{run: ...}` into kind run, `{name: ...}` into kind pretrained."""
    if isinstance(value, Plugin):
        return value
    if not (isinstance(value, dict) and any(key in value for key in ("kind", *_KINDS))):
        raise PydanticCustomError("teacher", "needs a run, or the name of a pretrained model")
    kind = next((kind for key, kind in _KINDS.items() if key in value), None)
    return kinds.plugin("models").func({"kind": kind, **value})  # type: ignore[call-arg]


Teacher = Annotated[SerializeAsAny[ModelConfig], kinds.KindValidator(_with_kind, folder="models", optional=True)]


def check(teacher: ModelConfig, auto_class: str, facts: "Facts", folder: Path) -> None:
    """Check that the teacher's outputs have the same meaning as the student's. Raises UserError if its vocabulary or
    labels differ from those of the prepared `folder`, or if it was trained for another kind of task."""
    problems = list[str | Problem]()
    theirs, ours = _vocabulary(teacher), _read_vocabulary(folder / "tokenizer")
    if theirs is not None and ours is not None and theirs != ours:
        what = f"another vocabulary than the teacher's: {_difference(ours, theirs)} (take the teacher's tokenizer)"
        problems.append(Problem("tokenizer", what))
    labels = _labels(teacher)
    if facts.labels and labels is not None and labels != facts.labels:
        difference = _difference(_numbered(facts.labels), _numbered(labels))
        problems.append(Problem("task.teacher", f"other labels than those of the data: {difference}"))
    trained = _trained_auto_class(teacher)
    if trained is not None and trained != auto_class:
        what = f"is a {trained.removeprefix('AutoModelFor')} model, which knows no such task"
        problems.append(Problem("task.teacher", what))
    if problems:
        raise UserError(problems)


def build(teacher: ModelConfig, requirements: "ModelRequirements", student: "torch.nn.Module") -> "torch.nn.Module":
    """Build the teacher, frozen, on the device and in the data type of the student. Raises UserError."""
    try:
        model, notes = plugins.model(teacher).build(requirements)
    except UserError as error:
        raise UserError([_teacher_problem(problem) for problem in error.problems]) from None
    if new := [note for note in notes if note.startswith("new weights")]:
        raise UserError(Problem("task.teacher", f"{new[0]} (a teacher has learnt the task already)"))
    like = next(student.parameters())
    frozen: torch.nn.Module = model.to(device=like.device, dtype=like.dtype).eval().requires_grad_(False)
    return frozen


def _teacher_problem(problem: str | Problem) -> str | Problem:
    """Return a problem with the keys of `model` replaced by those of `task.teacher`."""
    if isinstance(problem, Problem) and problem.key.partition(".")[0] == "model":
        what = problem.what.replace("model.trust_remote_code", "task.teacher.trust_remote_code")
        return Problem(f"task.teacher{problem.key.removeprefix('model')}", what)
    return problem


def _vocabulary(teacher: ModelConfig) -> dict[str, int] | None:
    """Return the teacher's tokens with their ids; None: it has no tokenizer file."""
    where = plugins.model(teacher).tokenizer()
    if where is None:
        return None
    where = where if isinstance(where, PretrainedTokenizer) else PretrainedTokenizer(name=str(where))
    return _read_vocabulary(Path(cache_root.found(where.name, where.revision)))


def _read_vocabulary(folder: Path) -> dict[str, int] | None:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)).get_vocab() if file.is_file() else None


def _labels(teacher: ModelConfig) -> list[str] | None:
    """Return the teacher's labels in the order of their numbers; None: they are not known."""
    if reference := teacher.run_reference:
        folder = RunDir(Path(cache_root.found(reference.run)))
        return run_facts.of_run(folder.path).labels if strict_json.exists(folder.facts) else None
    if teacher.source is None:
        return None
    file = Path(cache_root.found(teacher.source.name, teacher.source.revision)) / teacher.source.file
    names = json.loads(file.read_text(encoding="utf-8")).get("id2label") if file.is_file() else None
    return [names[number] for number in sorted(names, key=int)] if names else None


def _trained_auto_class(teacher: ModelConfig) -> str | None:
    """Return the transformers auto class of the task that the teacher's run trained; None: it is not known."""
    if teacher.run_reference is None:
        return None
    file = RunDir(Path(cache_root.found(teacher.run_reference.run))).recipe
    return plugins.task(load.stored(file).value.inner_task).auto_class if file.is_file() else None


def _numbered(labels: list[str]) -> dict[str, int]:
    return {label: number for number, label in enumerate(labels)}


def _difference(ours: dict[str, int], theirs: dict[str, int]) -> str:
    """Return a text with the first three names whose numbers differ, and how many more there are."""
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    first = ", ".join(f"{n!r} is {_number(ours.get(n))} here and {_number(theirs.get(n))} there" for n in names[:3])
    return first + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _number(number: int | None) -> str:
    return "missing" if number is None else f"number {number}"
