"""What is counted of a model, and when the count is kept."""

from pathlib import Path

import pytest
import support

from launcher import models, tasks
from launcher.config import paths
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import memory, model_spec
from launcher.plan import model_requirements as needs
from launcher.plan.facts import guess

pytestmark = pytest.mark.cold_start


def asked(**changes):
    recipe = Recipe.model_validate(support.classification(**changes))
    facts = guess(recipe).model_copy(update={"vocab_size": 60, "longest": 16})
    return recipe, facts, model_spec.count(recipe, needs.of(recipe, facts))


def kept():
    return len(list((paths.cache() / "architectures").glob("*.json")))


def test_what_trains_is_counted_after_freezing_and_adapters():
    whole = asked()[2]
    assert whole.trained == whole.parameters
    frozen = asked(model__freeze=["bert"])[2]
    assert (frozen.parameters, frozen.trained) == (whole.parameters, 2 * 16 + 2)
    adapted = asked(model__adapter={"kind": "lora", "r": 2})[2]
    assert adapted.parameters - whole.parameters == 4 * 2 * (16 + 16)
    assert adapted.trained == 4 * 2 * (16 + 16) + 2 * 16 + 2


def test_a_model_that_is_never_built_is_a_mistake(monkeypatch):
    monkeypatch.setattr(model_spec, "_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"^model: cannot be built: not done after 0\.01 s"):
        asked(model__num_hidden_layers=10**9)


def test_what_trains_after_the_thaw_is_what_counts():
    shape = asked(model__freeze=["bert"], model__unfreeze_at=3)[2]
    assert shape.trained == shape.parameters


def test_gradients_and_moments_are_of_what_trains_alone():
    recipe, facts, shape = asked(model__freeze=["bert"])
    parts = memory.parts(recipe, shape, facts, 1, 2, "cpu")
    assert parts["weights"] == 4 * shape.parameters
    assert parts["gradients"] == 4 * shape.trained
    assert parts["optimizer"] == 8 * shape.trained
    assert memory.checkpoint(recipe, shape) == 4 * (shape.parameters + 2 * shape.trained + shape.buffers)


def test_mistakes_that_need_the_model_are_reported_by_the_plan():
    for changes, told in (
        ({"model__freeze": ["brt"]}, r"^model\.freeze: 'brt' matches no parameter \(names begin with: bert\.emb"),
        ({"model__adapter": {"kind": "lora", "rank": 2}}, r"^model\.adapter\.rank: unknown key of LoraConfig \("),
    ):
        with pytest.raises(UserError, match=told):
            asked(**changes)


def test_what_a_users_own_code_makes_is_counted_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import torch\ndef make(vocab_size, num_labels):\n    return torch.nn.Embedding(vocab_size, num_labels * {})\n"
    )
    (tmp_path / "own_models.py").write_text(code.format(1))
    model = {"kind": "factory", "factory": "own_models:make"}
    before = kept()
    assert asked(model=model)[2].parameters == 120
    (tmp_path / "own_models.py").write_text(code.format(10))
    assert asked(model=model)[2].parameters == 1200
    assert kept() == before


OWN = {
    models: "from launcher.models import small\nModel = small.Model\nclass Config(small.Config):\n    kind: str\n",
    tasks: "from launcher.tasks import mlm\nTask = mlm.Task\nclass Config(mlm.Config):\n    kind: str\n",
}


def cached(**changes) -> Path | None:
    return model_spec._file(Recipe.model_validate(support.mlm(**changes)), "question")


@pytest.mark.parametrize("package", OWN)
def test_a_module_among_those_of_the_launcher_is_counted_again_when_it_has_changed(package, tmp_path, monkeypatch):
    """A file launcher/models/mine.py, as docs/plugins.md recommends it; of a task where rows are packed."""
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    name = f"mine_{tmp_path.name[-1]}_{package.__name__.rpartition('.')[2]}"
    (tmp_path / f"{name}.py").write_text(OWN[package])
    changes = {
        models: {"model": {"kind": name, "type": "mlp", "hidden": [16]}},
        tasks: {"task": {"kind": name, "samples": "packed"}},
    }[package]
    before = cached(**changes)
    assert before is not None and before == cached(**changes)
    (tmp_path / "_helper.py").write_text("")
    assert cached(**changes) != before


@pytest.mark.parametrize(("samples", "kept"), [("packed", False), ("documents", True)])
def test_whether_a_users_own_task_packs_rows_is_asked_each_time(tmp_path, monkeypatch, samples, kept):
    monkeypatch.chdir(tmp_path)
    support.plugin("packer", OWN[tasks])
    assert (cached(task={"kind": "own.packer", "samples": samples}) is not None) == kept


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"name": "bert", "parameters": "many"}'])
def test_a_damaged_entry_of_the_cache_is_counted_anew(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path))
    monkeypatch.setattr(model_spec, "_run_child", lambda question: {**counted})
    counted = {"name": "bert", "parameters": 3, "trained": 2, "buffers": 0}
    first = asked()[2]
    (entry,) = (tmp_path / "architectures").glob("*.json")
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    assert asked()[2] == first
    assert entry.read_bytes() == whole
