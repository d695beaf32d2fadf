"""Repositories of the hub: pinned to a commit, and downloaded once. The hub is a small server on the loopback."""

import json
import os
import time

import pytest
import support
from support import local_hub

from launcher.config import load
from launcher.config.errors import UserError
from launcher.prepare import hub as hub_module


@pytest.fixture
def hub(workspace, monkeypatch, tmp_path):
    """A hub with a model and a dataset, and an own cache and home."""
    from transformers import BertConfig, BertForMaskedLM

    from launcher.config.recipe import TrainTokenizer
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


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"\xff", b'{"commit": 5}', b'{"commit": "main"}'])
def test_a_damaged_entry_of_a_commit_is_none(tmp_path, monkeypatch, damage):
    def gone(repository):
        raise UserError("the hub is gone")

    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path))
    repository = hub_module.Repository("model", "model", "org/tiny", None)
    monkeypatch.setattr(hub_module, "_query", lambda repository: "a" * 40)
    hub_module.commit(repository)
    monkeypatch.setattr(hub_module, "_query", gone)
    assert hub_module.commit(repository) == "a" * 40
    (entry,) = (tmp_path / "commits").iterdir()
    entry.write_bytes(damage)
    with pytest.raises(UserError, match="the hub is gone"):
        hub_module.commit(repository)
