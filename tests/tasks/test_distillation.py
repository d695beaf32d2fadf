"""The loss of a student against numbers worked out by hand, and teachers that are refused."""

import json

import numpy as np
import pytest
import support
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy, softmax

from launcher.config import load
from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.prepare import checkpoint_references
from launcher.storage import cache_root
from launcher.storage.checkpoint_format import checksum
from launcher.storage.run_dir import RunDir
from launcher.tasks import IGNORE, _teacher_model, distillation
from launcher.train.data_loader import tensors

TEACHER = {"kind": "config", "type": "bert", **support.TINY, "initializer_range": 0.5}


def config(task="mlm", **keys):
    return distillation.Config(task=task, **{"teacher": TEACHER, **keys})


def test_the_divergence_is_that_worked_out_by_hand():
    """Softened by 2, (2 ln 3, 0) is (3/4, 1/4) and (0, 0) is (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2, times 4."""
    teacher, student = torch.tensor([[2 * np.log(3.0), 0.0]]), torch.zeros(1, 2, dtype=torch.float64)
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert float(distillation.divergence(teacher, student, 2.0)) == pytest.approx(expected, rel=1e-12)
    thrice = distillation.divergence(teacher.repeat(3, 1), student.repeat(3, 1), 2.0)
    assert float(thrice) == pytest.approx(3 * expected)
    assert float(distillation.divergence(student, student, 2.0)) == 0


@pytest.fixture
def learning(encoder, facts_of, tiny):
    """Makes a task, a student that it is attached to, and a batch with labels that carry no weight."""

    def make(**keys):
        task = distillation.Task(config(**keys), facts_of())
        rows = [{"input_ids": np.arange(5, 17) + n, "begins": np.ones(12, dtype=bool)} for n in range(4)]
        batch = tensors(task.collate(task.samples(rows, [0] * 4, range(4), Draw(1, Stream.MASK))))
        batch["labels"][0], batch["labelled"] = IGNORE, batch["labelled"][1:]
        student = tiny(task)
        task.prepare_model(student, batch)
        return task, student, batch

    return make


@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 2.0), (0.0, 1.0), (0.9, 4.0)])
def test_the_loss_is_the_labels_and_the_teachers_share(learning, alpha, temperature):
    task, student, batch = learning(alpha=alpha, temperature=temperature)
    loss, weight = task.loss(student, batch)
    here = student(**batch["inputs"]).logits.flatten(0, 1)[batch["places"]][1:]
    there = task._teacher(**batch["inputs"]).logits.flatten(0, 1)[batch["places"]][1:]
    p, q = softmax(there / temperature, -1), softmax(here / temperature, -1)
    own = cross_entropy(here, batch["labels"][1:], reduction="sum")
    expected = alpha * own + (1 - alpha) * temperature**2 * (p * (p / q).log()).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert weight == len(batch["labels"]) - 1


def test_alpha_1_is_the_task_alone(learning):
    task, student, batch = learning(alpha=1.0)
    with torch.no_grad():
        whole, own = (float(one.loss(student, batch)[0]) for one in (task, task.inner))
    assert whole == pytest.approx(own, rel=1e-12)


def test_the_teacher_is_not_part_of_the_student_and_is_frozen(learning):
    task, student, batch = learning()
    before = {name: value.clone() for name, value in task._teacher.state_dict().items()}
    mine = {id(value) for value in task._teacher.parameters()}
    task.loss(student, batch)[0].backward()
    assert not mine & {id(value) for value in student.parameters()}
    assert all(value.grad is None and not value.requires_grad for value in task._teacher.parameters())
    assert not task._teacher.training and next(task._teacher.parameters()).dtype == torch.float64
    assert all(torch.equal(value, before[name]) for name, value in task._teacher.state_dict().items())


def test_both_heads_run_on_the_masked_places_alone(learning):
    task, _, _ = learning()
    assert task.inner._head is not None and task._teacher_task._head is not None
    assert task.inner._head is not task._teacher_task._head


def test_a_teacher_of_other_classes_is_refused(learning):
    with pytest.raises(UserError, match=r"task\.teacher: has 130 classes, and the student 120"):
        learning(teacher={**TEACHER, "vocab_size": 130})


@pytest.mark.parametrize("kind", ["regression", "reward"])
def test_a_task_without_classes_is_refused(kind):
    task = {"kind": "reward", "reward": "launcher.tasks._rewards:the"} if kind == "reward" else kind
    with pytest.raises(ValidationError, match=f"{kind} cannot be distilled"):
        config(task)


def test_multiple_labels_are_refused():
    with pytest.raises(ValidationError, match=r"cannot be distilled with labels: multi \(take single\)"):
        config({"kind": "sequence_classification", "labels": "multi"})


def test_a_distillation_is_not_distilled():
    with pytest.raises(ValidationError, match="distillation cannot be distilled"):
        config({"kind": "distillation", "task": {"kind": "mlm"}, "teacher": TEACHER})


def test_a_teacher_needs_a_run_or_a_name():
    assert config(teacher={"run": "runs/x", "checkpoint": 3}).teacher.kind == "run"
    assert config(teacher={"name": "bert-base-uncased"}).teacher.kind == "pretrained"
    with pytest.raises(ValidationError, match="needs a run, or the name of a pretrained model"):
        config(teacher={"checkpoint": "best"})


@pytest.fixture
def named(tmp_path, words):
    """A pretrained teacher as far as it is read before it is built: its tokenizer and its configuration."""
    words.save_pretrained(tmp_path / "model")

    def make(labels, tokens=None):
        names = {"id2label": {str(number): label for number, label in enumerate(labels)}}
        (tmp_path / "model" / "config.json").write_text(json.dumps(names))
        return config("sequence_classification", teacher={"name": str(tmp_path / "model")}).teacher

    return make


def checked(teacher, facts):
    _teacher_model.check(teacher, "AutoModelForSequenceClassification", facts, cache_root.prepared(facts.digest))


def test_a_teacher_of_the_same_tokens_and_labels_passes(named, facts_of):
    facts = facts_of(labels=["bad", "good"])
    checked(named(["bad", "good"]), facts)


def test_other_labels_are_refused_and_named(named, facts_of):
    facts = facts_of(labels=["bad", "good"])
    with pytest.raises(UserError, match="other labels than those of the data: 'fair' is missing here and number 1"):
        checked(named(["bad", "fair"]), facts)


def test_another_vocabulary_is_refused_and_named(named, facts_of, tmp_path):
    teacher, facts = named(["bad", "good"]), facts_of(labels=["bad", "good"])
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(file.read_text().replace('"gradient"', '"grradient"'))
    with pytest.raises(UserError, match=r"tokenizer: another vocabulary than the teacher's: 'gradient' is number \d+"):
        checked(teacher, facts)


def test_a_checkpoint_of_the_teacher_is_pinned_and_a_missing_one_is_reported(workspace):
    """What `latest` is is decided when the student is first started, however far its teacher has gone since."""
    task = {"kind": "distillation", "task": {"kind": "mlm"}, "teacher": {"run": "runs/teacher"}}
    recipe = load.recipe(support.write(support.mlm("student", task=task))).value
    student, teacher = RunDir(workspace / "runs/student"), workspace / "runs/teacher"
    assert "no run is there" in str(checkpoint_references.missing(recipe)[0])
    teacher.mkdir(parents=True)
    assert "task.teacher.checkpoint: runs/teacher/checkpoints: no whole checkpoint" in str(
        checkpoint_references.missing(recipe)[0]
    )
    _saved(teacher, 10)
    pinned = checkpoint_references.pin(recipe, student)
    assert pinned.task.teacher.checkpoint == 10 and checkpoint_references.missing(pinned) == []
    _saved(teacher, 20)
    assert checkpoint_references.pin(recipe, student).task.teacher.checkpoint == 20, "the student has not begun"
    student.path.mkdir()
    load.dump(pinned, student.recipe)
    student.metrics.touch()
    assert checkpoint_references.pin(recipe, student).task.teacher.checkpoint == 10


@pytest.mark.parametrize(
    ("keys", "resumes", "told"),
    [
        ({}, False, ["model.checkpoint"]),
        ({}, True, []),
        ({"adapter": {"kind": "lora"}}, True, ["model.checkpoint"]),
        ({"weights": "random"}, False, []),
        ({"checkpoint": "latest"}, False, []),
    ],
    ids=str,
)
def test_a_missing_step_is_reported_where_its_weights_are_needed(workspace, keys, resumes, told):
    model = {"kind": "run", "run": "runs/first", "checkpoint": 10, **keys}
    recipe = load.recipe(support.write(support.mlm("second", model=model, tokenizer=None))).value
    assert checkpoint_references.missing(recipe, resumes) == [], "of a run that is not there, its builder tells"
    _saved(workspace / "runs/first", 20)
    assert [problem.key for problem in checkpoint_references.missing(recipe, resumes)] == told


@pytest.mark.parametrize(("task", "expected"), [("causal_lm", True), ("reward", False)])
def test_the_reference_is_the_initial_model(workspace, task, expected):
    task = {"kind": "reward", "reward": "launcher.tasks._rewards:vowels"} if task == "reward" else task
    model = {"kind": "run", "run": "runs/first"}
    recipe = load.recipe(support.write(support.mlm("second", model=model, task=task, tokenizer=None))).value
    assert checkpoint_references.replaced(recipe) == expected


def _saved(run, step):
    folder = run / "checkpoints" / f"step-{step:08}"
    folder.mkdir(parents=True)
    state = folder / "state.json"
    state.write_text(json.dumps({"step": step}))
    files = {state.name: [state.stat().st_size, checksum(state)]}
    (folder / "COMPLETE").write_text(json.dumps({"files": files}))
