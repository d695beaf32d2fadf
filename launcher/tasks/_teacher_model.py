"""A model that teaches another: built beside it, never trained, and asked only for what it knows."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from launcher.config import kinds, load, plugins, strict_json
from launcher.config.errors import Problem, UserError
from launcher.config.model import ModelConfig
from launcher.config.recipe import PretrainedTokenizer
from launcher.config.types import Plugin
from launcher.plan import facts as run_facts
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.plan.model_requirements import ModelRequirements

_KINDS = {"run": "run", "name": "pretrained"}


def _kind(value: Any) -> Any:
    """`{run: ...}` is the model of a run, `{name: ...}` a pretrained one."""
    if isinstance(value, Plugin):
        return value
    if not (isinstance(value, dict) and any(key in value for key in ("kind", *_KINDS))):
        raise PydanticCustomError("teacher", "needs a run, or the name of a pretrained model")
    kind = next((kind for key, kind in _KINDS.items() if key in value), None)
    return kinds.plugin("models").func({"kind": kind, **value})  # type: ignore[call-arg]


Teacher = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_kind)]


def check(teacher: ModelConfig, auto_class: str, facts: "Facts", folder: Path) -> None:
    """Raises UserError where the teacher was made for another vocabulary or other labels than the prepared `folder`, or
    for another kind of task: what it says would mean something else."""
    problems = list[str | Problem]()
    there, here = _vocabulary(teacher), _read(folder / "tokenizer")
    if there is not None and here is not None and there != here:
        what = f"another vocabulary than the teacher's: {_difference(here, there)} (take the teacher's tokenizer)"
        problems.append(Problem("tokenizer", what))
    labels = _labels(teacher)
    if facts.labels and labels is not None and labels != facts.labels:
        apart = _difference(_numbered(facts.labels), _numbered(labels))
        problems.append(Problem("task.teacher", f"other labels than those of the data: {apart}"))
    learnt = _learnt(teacher)
    if learnt is not None and learnt != auto_class:
        problems.append(
            Problem("task.teacher", f"is a {learnt.removeprefix('AutoModelFor')} model, which knows no such task")
        )
    if problems:
        raise UserError(problems)


def build(teacher: ModelConfig, need: "ModelRequirements", like: "torch.nn.Module") -> "torch.nn.Module":
    """The teacher on the device and in the type of the student. Raises UserError."""
    try:
        model, notes = plugins.model(teacher).build(need)
    except UserError as error:
        raise UserError([_of_the_teacher(problem) for problem in error.problems]) from None
    if new := [note for note in notes if note.startswith("new weights")]:
        raise UserError(Problem("task.teacher", f"{new[0]} (a teacher has learnt the task already)"))
    one = next(like.parameters())
    made: torch.nn.Module = model.to(device=one.device, dtype=one.dtype).eval().requires_grad_(False)
    return made


def _of_the_teacher(problem: str | Problem) -> str | Problem:
    if isinstance(problem, Problem) and problem.key.partition(".")[0] == "model":
        what = problem.what.replace("model.trust_remote_code", "task.teacher.trust_remote_code")
        return Problem(f"task.teacher{problem.key.removeprefix('model')}", what)
    return problem


def _vocabulary(teacher: ModelConfig) -> dict[str, int] | None:
    """The teacher's tokens and their ids; None: it brings no tokenizer that can be read."""
    where = plugins.model(teacher).tokenizer()
    if where is None:
        return None
    where = where if isinstance(where, PretrainedTokenizer) else PretrainedTokenizer(name=str(where))
    return _read(Path(cache_root.found(where.name, where.revision)))


def _read(folder: Path) -> dict[str, int] | None:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)).get_vocab() if file.is_file() else None


def _labels(teacher: ModelConfig) -> list[str] | None:
    """The labels that a teacher tells apart, in the order of its numbers; None: it does not say."""
    if run := getattr(teacher, "run", None):
        folder = RunDir(Path(cache_root.found(run)))
        return run_facts.of_run(folder.path).labels if strict_json.exists(folder.facts) else None
    file = Path(cache_root.found(getattr(teacher, "name", ""), getattr(teacher, "revision", None))) / "config.json"
    names = json.loads(file.read_text(encoding="utf-8")).get("id2label") if file.is_file() else None
    return [names[number] for number in sorted(names, key=int)] if names else None


def _learnt(teacher: ModelConfig) -> str | None:
    """The transformers auto class of what the run of a teacher learnt; None: it does not say."""
    file = RunDir(Path(cache_root.found(getattr(teacher, "run", "")))).recipe
    if not hasattr(teacher, "run") or not file.is_file():
        return None
    task = load.stored(file).value.inner_task
    return str(plugins.task(task).auto_class)


def _numbered(labels: list[str]) -> dict[str, int]:
    return {label: number for number, label in enumerate(labels)}


def _difference(here: dict[str, int], there: dict[str, int]) -> str:
    """The first few in which they differ, and how many there are."""
    names = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    some = ", ".join(f"{n!r} is {_said(here.get(n))} here and {_said(there.get(n))} there" for n in names[:3])
    return some + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _said(number: int | None) -> str:
    return "missing" if number is None else f"number {number}"
