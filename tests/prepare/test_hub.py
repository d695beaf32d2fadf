"""Repositories of the hub: pinned to a commit, and downloaded once. The hub is a small server on the loopback."""

import json
import os
import time
from pathlib import Path

import httpx
import pytest
import support
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from support import local_hub

from launcher.config import load
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.types import TaskConfig
from launcher.models import pretrained
from launcher.prepare import checkpoint_references
from launcher.prepare import hub as repositories
from launcher.storage.checkpoint_format import checksum
from launcher.storage.run_dir import RunDir

JUDGED = """
from launcher.tasks import _teacher_model, mlm

class Config(mlm.Config):
    kind: str
    judge: _teacher_model.Teacher

    @property
    def teacher_model(self):
        return self.judge

Task = mlm.Task
"""


class Judge(TaskConfig):
    kind: str = "judge"

    @property
    def teacher_model(self) -> pretrained.Config:
        return pretrained.Config(name="org/judge")


@pytest.fixture
def hub(workspace, monkeypatch, tmp_path):
    """A hub with a model and a dataset, and an own cache and home."""
    from transformers import BertConfig, BertForMaskedLM

    from launcher.config.tokenizer import TrainTokenizer
    from launcher.prepare import tokenizer

    model = tmp_path / "hub-model"
    words = tokenizer.train(TrainTokenizer(vocab_size=120), lambda: ["a rank reads a batch of tokens"] * 9)
    words.save_pretrained(model)
    sizes = {name: size for name, size in support.TINY.items() if name != "dropout"}
    BertForMaskedLM(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(model)
    data = tmp_path / "hub-data"
    data.mkdir()
    rows = [json.dumps({"text": f"a rank reads batch number {n} of tokens"}) for n in range(40)]
    (data / "train.jsonl").write_text("\n".join(rows) + "\n")
    with local_hub.serving() as served:
        served.repositories = {"models/org/tiny": model, "datasets/org/texts": data}
        for name, value in {
            "HF_ENDPOINT": served.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"),
            "LAUNCHER_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield served


def recipe(**changes):
    given = {"model": {"kind": "pretrained", "name": "org/tiny"}, "tokenizer": None, **changes}
    return support.write(support.mlm("hub", train__steps=2, **given))


def test_model_and_data_are_pinned_brought_once_and_not_asked_for_by_the_ranks(hub):
    file = recipe(data__train={"kind": "hub", "name": "org/texts"})
    support.launcher("prepare", file)
    for brought in ("model.safetensors", "train.jsonl"):
        assert [path for path in hub.asked if brought in path]
    hub.asked.clear()
    support.launcher("run", file, "--ranks", 2)
    assert not [path for path in hub.asked if "resolve" in path]
    resolved = load.recipe("runs/hub/recipe.yaml").value
    assert resolved.model.revision == resolved.data.train.revision == "a" * 40
    assert support.steps("runs/hub").keys() == {1, 2}


def test_a_run_goes_on_with_the_commit_it_began_with(hub):
    file = recipe()
    support.launcher("run", file, "--ranks", 1)
    hub.commits = {"main": "b" * 40, "old": "a" * 40}
    for name, commit in (("hub", "a" * 40), ("another", "b" * 40)):
        support.launcher("prepare", file, f"name={name}", "--to", f"bundle-{name}")
        assert load.recipe(f"bundle-{name}/recipe.yaml").value.model.revision == commit


def test_a_branch_that_is_not_there_is_told_with_its_key(hub):
    done = support.launcher(
        "prepare", recipe(model={"kind": "pretrained", "name": "org/tiny", "revision": "v9"}), code=2
    )
    assert "model.revision: org/tiny has no revision 'v9' on the hub" in done.stderr


def test_a_name_that_the_hub_does_not_know_is_told_with_its_key(hub):
    done = support.launcher("prepare", recipe(model={"kind": "pretrained", "name": "org/tin"}), code=2)
    assert "model.name: org/tin: no folder here, and no model of this name on the hub" in done.stderr


def test_what_was_brought_is_used_when_the_hub_is_gone(hub, monkeypatch):
    file = recipe()
    support.launcher("prepare", file)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    support.launcher("run", file, "--ranks", 1)
    assert support.steps("runs/hub").keys() == {1, 2}


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://10.255.255.1"])  # refused; without an answer
def test_without_a_network_it_is_said_soon_what_to_run_where(hub, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    begin = time.monotonic()
    done = support.launcher("run", recipe(data__train={"kind": "hub", "name": "org/texts"}), code=2, timeout=90)
    assert time.monotonic() - begin < 60
    for key in ("model.name: org/tiny", "data.train.name: org/texts"):
        assert f"{key}: no folder here, and the hub cannot be asked for it" in done.stderr
    assert "launcher prepare" in done.stderr
    assert not os.path.exists("runs")  # noqa: PTH110


def refused(error):
    """What a plan says where the hub answers so for every name, of a local model with pretrained parts beside it."""

    def answer(*_, **__):
        raise error

    parts = {"tokenizer": {"kind": "pretrained", "name": "org/words"}, "data__train": {"kind": "hub", "name": "org/d"}}
    task = {"kind": "distillation", "task": {"kind": "mlm"}, "teacher": {"name": "org/teacher"}}
    found = Recipe.model_validate(support.mlm(task=task, **parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi.repo_info", answer)
        try:
            repositories.pin(found, RunDir(Path("runs/none")), strict=False)
        except UserError as told:
            return [problem.key for problem in told.problems]
    return []


def test_a_plan_tolerates_a_hub_without_an_answer_and_never_a_name_that_it_does_not_know(workspace):
    keys = ["task.teacher", "tokenizer", "data.train"]
    response = httpx.Response(404, request=httpx.Request("GET", "http://hub"))
    assert refused(ConnectionError("no route to host")) == []
    assert refused(RepositoryNotFoundError("no", response=response)) == [f"{key}.name" for key in keys]
    assert refused(HFValidationError("Repo id must be in the form")) == [f"{key}.name" for key in keys]
    assert refused(RevisionNotFoundError("no", response=response)) == [f"{key}.revision" for key in keys]


def test_the_teacher_of_a_users_own_task_is_pinned_under_the_key_that_it_has(workspace, monkeypatch):
    support.plugin("judged", JUDGED)
    found = load.recipe(support.write(support.mlm(task={"kind": "own.judged", "judge": {"name": "org/judge"}}))).value
    monkeypatch.setattr(repositories, "commit", lambda repository: "c" * 40)
    pinned = repositories.pin(found, RunDir(Path("runs/none")))
    assert [one.key for one in repositories.missing(pinned)] == ["task.judge"]
    assert pinned.task.judge.revision == "c" * 40
    task = {"kind": "own.judged", "judge": {"run": "runs/judge"}}
    found = load.recipe(support.write(support.mlm(task=task))).value
    assert [problem.key for problem in checkpoint_references.missing(found)] == ["task.judge.run"]
    step = Path("runs/judge/checkpoints/step-00000010")
    step.mkdir(parents=True)
    (step / "state.json").write_text('{"step": 10}')
    files = {"state.json": [12, checksum(step / "state.json")]}
    (step / "COMPLETE").write_text(json.dumps({"files": files}))
    task = checkpoint_references.pin(found, RunDir(Path("runs/none"))).task
    assert task.judge.checkpoint == 10 and set(dict(task)) == set(type(task).model_fields)


def test_a_task_without_a_key_for_its_teacher_is_told_how_to_name_it():
    config = Judge()
    with pytest.raises(TypeError, match=r"^Judge\.teacher_model is the value of no key \(override teacher_key\)$"):
        config.with_teacher(config.teacher_model)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff", b'{"commit": 5}', b'{"commit": "main"}'])
def test_a_damaged_entry_of_a_commit_is_none(tmp_path, monkeypatch, damage):
    def gone(repository):
        raise UserError("the hub is gone")

    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path))
    repository = repositories.Repository("model", "model", "org/tiny", None)
    monkeypatch.setattr(repositories, "_query", lambda repository: "a" * 40)
    repositories.commit(repository)
    monkeypatch.setattr(repositories, "_query", gone)
    assert repositories.commit(repository) == "a" * 40
    (entry,) = (tmp_path / "commits").iterdir()
    entry.write_bytes(damage)
    with pytest.raises(UserError, match="the hub is gone"):
        repositories.commit(repository)
