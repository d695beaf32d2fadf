"""`launcher export`: plain transformers loads the trained model from the folder."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import support
import torch
import transformers
from rich.console import Console
from ruamel.yaml import YAML
from safetensors import safe_open

from launcher.config import kinds, load
from launcher.config.errors import UserError
from launcher.models import run as trained
from launcher.plan import model_requirements
from launcher.plan.facts import Facts
from launcher.storage.run_dir import RunDir
from launcher.tools.export.export import export
from launcher.train import checkpoint

TEXTS = ["the rank reads a [MASK] batch", "every seed [MASK]", "a"]
OFTEN = {"checkpoint": {"every": 2, "keep": 9}, "evaluate": {"every": 2}}
SHARDED = {"kind": "fsdp"}  # rows of each parameter are dealt over the ranks; in the other, columns too
WORSE = {"optimizer__lr": 3.0, "schedule": {"kind": "constant", "warmup": 6}}  # from evaluation to evaluation
RUNS = {
    "bert": (2, support.mlm("bert", strategy=SHARDED, **WORSE, **OFTEN)),
    "modernbert": (
        2,
        support.mlm(
            "modernbert", model__type="modernbert", strategy={**SHARDED, "tensor_parallel": 2}, data__validation=None
        ),
    ),
    "labels": (1, support.classification("labels", train__precision="fp64", **OFTEN)),
    "adapted": (
        2,
        support.mlm("adapted", strategy=SHARDED, model__adapter={"kind": "lora", "r": 2}, optimizer__lr=0.1),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """The folder runs/ with each run, trained by the command."""
    folder = support.corpus(tmp_path_factory.mktemp("exports"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, (ranks, recipe) in RUNS.items():
            support.launcher("run", support.write(recipe, f"{name}.yaml"), "--ranks", ranks)
        yield folder / "runs"


def exported(name, to, which="best", shard_size="1GiB"):
    return export(f"runs/{name}", which, to, shard_size, Console(quiet=True))


def model(name, which="best"):
    """The model of a run's recipe with the weights of a checkpoint."""
    folder = RunDir(Path("runs") / name)
    facts = Facts.model_validate_json(folder.facts.read_text(encoding="utf-8"))
    wanted = model_requirements.of(load.recipe(folder.recipe).value, facts)
    return trained.Model(trained.Config(run=str(folder.path), checkpoint=which)).build(wanted)[0].eval()


def logits(model, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits


def shards(folder):
    return sorted(file.name for file in folder.glob("*.safetensors"))


def loaded(folder, task="fill-mask"):
    return transformers.pipeline(task, str(folder))


def equal(name, folder, which="best"):
    """Whether the pipeline's model gives the logits of the checkpoint."""
    task = "text-classification" if name == "labels" else "fill-mask"
    return torch.allclose(logits(loaded(folder, task).model, folder), logits(model(name, which), folder), 0, 1e-6)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("shard_size", ["1GiB", "10kB"])
def test_transformers_gives_the_logits_of_the_trained_model(tmp_path, name, shard_size):
    exported(name, tmp_path / "out", shard_size=shard_size)
    assert equal(name, tmp_path / "out")
    assert (len(shards(tmp_path / "out")) > 1) == (shard_size == "10kB")


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_left_new_and_nothing_unused(tmp_path, name):
    exported(name, tmp_path / "out", shard_size="10kB")
    kind = getattr(transformers, "AutoModelFor" + ("SequenceClassification" if name == "labels" else "MaskedLM"))
    _, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told


def test_the_mask_is_filled_with_the_probabilities_of_the_trained_model(tmp_path):
    exported("bert", tmp_path / "out")
    fill = loaded(tmp_path / "out")
    (place,) = torch.where(fill.tokenizer(TEXTS[0], return_tensors="pt").input_ids[0] == fill.tokenizer.mask_token_id)
    expected = logits(model("bert"), tmp_path / "out")[0, place].softmax(-1).max()
    assert fill(TEXTS[0])[0]["score"] == pytest.approx(float(expected), abs=1e-6)


def test_a_text_is_classified_by_the_names_of_the_labels_in_the_precision_of_the_checkpoint(tmp_path):
    exported("labels", tmp_path / "out")
    classify = loaded(tmp_path / "out", "text-classification")
    assert classify.model.dtype == torch.float64
    expected = logits(model("labels"), tmp_path / "out").softmax(-1)
    for text, probabilities in zip(TEXTS, expected, strict=True):
        given = {one["label"]: one["score"] for one in classify(text, top_k=None)}
        named = dict(zip(["few", "many", "some"], probabilities.tolist(), strict=True))
        assert given == pytest.approx(named, abs=1e-6)


def test_files_are_those_that_transformers_names(tmp_path):
    exported("bert", tmp_path / "one")
    kept = {"config.json", "README.md", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in (tmp_path / "one").iterdir()} == {*kept, "model.safetensors"}
    exported("bert", tmp_path / "more", shard_size="10kB")
    names = shards(tmp_path / "more")
    assert names == [f"model-{n:05}-of-{len(names):05}.safetensors" for n in range(1, len(names) + 1)]
    assert {file.name for file in (tmp_path / "more").iterdir()} == {*kept, *names, "model.safetensors.index.json"}
    index, held = json.loads((tmp_path / "more" / "model.safetensors.index.json").read_text()), {}
    for name in names:
        with safe_open(tmp_path / "more" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            held |= {key: (name, file.get_tensor(key).nbytes) for key in file.keys()}  # noqa: SIM118
    assert index["weight_map"] == {key: name for key, (name, _) in held.items()}
    assert index["metadata"]["total_size"] == sum(size for _, size in held.values())
    assert not any(key.startswith(("model.", "optimizer.")) for key in held)


def test_no_shard_is_larger_than_it_may_be_unless_it_is_one_tensor(tmp_path):
    exported("bert", tmp_path / "out", shard_size="6KiB")
    for name in shards(tmp_path / "out"):
        with safe_open(tmp_path / "out" / name, framework="pt") as file:
            sizes = [file.get_tensor(key).nbytes for key in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= 6 * 1024 or len(sizes) == 1


def test_all_files_have_one_mode(tmp_path):
    exported("bert", tmp_path / "out")
    modes = {stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_a_long_tensor_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("launcher.tools.checkpoint_tensors._PIECE", 200)
    exported("modernbert", tmp_path / "out")
    assert equal("modernbert", tmp_path / "out")


def test_the_checkpoint_is_the_one_that_is_named(tmp_path):
    losses = {step: record["eval/loss"] for step, record in support.evaluations("runs/bert").items()}
    best = min(losses, key=losses.__getitem__)
    assert best != max(losses), "else best and latest could not be told apart"
    for which, step in (("best", best), ("latest", 6), (2, 2), (4, 4)):
        line = exported("bert", tmp_path / str(which), which)
        assert line.endswith(f", checkpoint of step {step}")
        assert equal("bert", tmp_path / str(which), step)
    different = [step for step in (2, 4, 6) if not equal("bert", tmp_path / "latest", step)]
    assert different == [2, 4]


def test_where_nothing_was_evaluated_the_latest_is_exported_and_the_card_says_so(tmp_path):
    assert exported("modernbert", tmp_path / "out").endswith("checkpoint of step 6")
    assert "This checkpoint, of step 6, was not evaluated." in (tmp_path / "out" / "README.md").read_text()


def test_the_command_prints_folder_files_size_and_step(runs):
    done = support.launcher("export", "runs/labels", "--checkpoint", "2", "--shard-size", "10kB")
    assert re.fullmatch(r"runs/labels/export: \d+ files, \d+\.\d KiB, checkpoint of step 2\n", done.stdout)
    assert equal("labels", runs / "labels" / "export", 2)
    kept = support.tree("runs/labels")
    done = support.launcher("export", "runs/labels", code=2)
    assert done.stderr == "runs/labels/export: is there already, and not empty (name another folder: --to)\n"
    assert support.tree("runs/labels") == kept


def test_a_folder_with_anything_in_it_is_left_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for to in (tmp_path / "out", tmp_path / "out" / "mine.txt"):
        with pytest.raises(UserError, match=rf"^{to}: is there already, and not empty"):
            exported("bert", to)
    assert support.tree(tmp_path) == {str(tmp_path / "out" / "mine.txt"): b"mine"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    exported("bert", tmp_path / "link")
    assert shards(tmp_path / "out") == ["model.safetensors"]


def test_parent_folders_are_created(tmp_path):
    exported("bert", tmp_path / "a" / "b" / "out")
    assert shards(tmp_path / "a" / "b" / "out") == ["model.safetensors"]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"which": 5}, r"^runs/bert/checkpoints: no whole checkpoint of step 5 \(there are: 2, 4, 6, latest, best\)$"),
        ({"which": "newest"}, r"^runs/bert/checkpoints: no whole checkpoint of step newest \(there are: "),
        ({"name": "none"}, r"^runs/none: no run of a transformers model is there \(it has no recipe.yaml\)$"),
        ({"shard_size": "large"}, r"^--shard-size: large: not a size \(such as 1GiB or 500MB\)$"),
        ({"shard_size": "0"}, r"^--shard-size: 0: not a size"),
        ({"shard_size": "1GBB"}, r"^--shard-size: 1GBB: not a size"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_and_nothing_is_written(tmp_path, given, what):
    with pytest.raises(UserError, match=what):
        exported(**{"name": "bert", **given}, to=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copied(tmp_path):
    """A copy of a run, to be damaged."""
    return RunDir(shutil.copytree("runs/bert", tmp_path / "copy"))


def refused(folder, what, which="latest"):
    kept = support.tree(folder.path)
    with pytest.raises(UserError, match=what):
        export(str(folder.path), which, None, "1GiB", Console(quiet=True))
    assert support.tree(folder.path) == kept


def test_a_run_without_a_checkpoint_is_refused(copied):
    shutil.rmtree(copied.checkpoints)
    refused(copied, rf"^{copied.checkpoints}: no whole checkpoint in it")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_checkpoint_with_a_missing_or_damaged_file_is_refused_or_passed_over(copied, damage):
    newest = copied.saved("latest")
    file = sorted(newest.path.glob("*.safetensors"))[-1]
    content = file.read_bytes()
    file.unlink()
    if damage == "damaged":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(copied, rf"^{file}: {damage}", newest.step)
    line = export(str(copied.path), "latest", None, "1GiB", Console(quiet=True))
    assert line.endswith(f"checkpoint of step {copied.whole()[-2].step}") and newest.path.is_dir()


@pytest.mark.parametrize("name", ["model/config.json", "facts.json"])
def test_a_run_that_lacks_what_an_export_needs_is_refused(copied, name):
    (copied.path / name).unlink()
    refused(copied, rf"^{copied.path}: no run of a transformers model is there \(it has no {Path(name).name}\)$")


def test_an_adapter_is_merged_into_plain_weights(tmp_path):
    exported("adapted", tmp_path / "out", "latest")
    folder = RunDir(Path("runs/adapted"))
    facts = Facts.model_validate_json(folder.facts.read_text(encoding="utf-8"))
    recipe = load.recipe(folder.recipe).value
    adapted, _ = kinds.of("models", recipe.model).Model(recipe.model).build(model_requirements.of(recipe, facts))
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    assert checkpoint.load_weights(adapted, folder.saved("latest")) == []
    assert any("lora" in n and not torch.equal(p, before[n]) for n, p in adapted.named_parameters())
    plain = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    expected = logits(adapted.eval(), tmp_path / "out")
    torch.testing.assert_close(logits(plain.eval(), tmp_path / "out"), expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())


def test_a_run_of_no_transformers_model_is_refused_by_what_it_is(copied):
    shutil.rmtree(copied.model)
    recipe = YAML(typ="safe").load(copied.recipe)
    recipe["model"] = {"kind": "small", "type": "mlp"}
    support.write(recipe, copied.recipe)
    what = (
        r"its model is no transformers model \(small mlp\), which alone can be a folder for it \(take --format onnx\)$"
    )
    refused(copied, rf"^{copied.path}: {what}")


def test_a_run_whose_norms_became_groups_is_refused(copied):
    file = copied.model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"batch_norm": "group"}))
    what = r"its model has groups in place of its batch norms \(batch_norm: group\), which plain transformers does not"
    refused(copied, rf"^{copied.path}: {what} know \(take --format onnx\)$")


def test_a_checkpoint_of_another_class_than_the_tasks_is_refused(copied):
    config = json.loads((copied.model / "config.json").read_text())
    (copied.model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(copied, r"its weights are not those of BertForMaskedLM: bert\.encoder\.layer\.2\..* and 13 more$")


def test_a_damaged_configuration_is_refused_with_where_to_get_another(copied):
    (copied.model / "config.json").write_text("{")
    refused(copied, r"config\.json: damaged: not a JSON object \(a run of this recipe under another name writes one to")


def test_where_the_disk_is_too_small_nothing_is_written(copied, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    refused(copied, rf"^{copied.path}/export: \d+\.\d KiB to write, 10 B free on its disk")


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    fail_at_second(monkeypatch, lambda: (_ for _ in ()).throw(OSError("the disk went away")))
    with pytest.raises(OSError, match="the disk went away"):
        exported("bert", tmp_path / "out", shard_size="10kB")
    assert list(tmp_path.iterdir()) == []


def fail_at_second(patch, fail):
    """Fail at the second shard of an export."""
    import safetensors.torch

    save, saved = safetensors.torch.save_file, []

    def failing(tensors, file, metadata):
        if saved:
            fail()
        saved.append(file)
        save(tensors, file, metadata)

    patch.setattr(safetensors.torch, "save_file", failing)


def killed(here, to):
    os.chdir(here)
    fail_at_second(pytest.MonkeyPatch(), lambda: os.kill(os.getpid(), signal.SIGKILL))
    exported("bert", to, shard_size="10kB")


def test_a_killed_export_leaves_a_hidden_folder_that_the_next_one_removes(tmp_path):
    to = tmp_path / "out"
    child = multiprocessing.get_context("spawn").Process(target=killed, args=(Path.cwd(), to))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(rf"\.out\.[0-9a-f]+-{child.pid}-[0-9a-f]+\.partial", left.name)
    exported("bert", to)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def card(folder):
    """The front matter of the card, and its text."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return YAML(typ="safe").load(front), text


def test_the_card_begins_with_what_the_hub_reads(tmp_path):
    exported("bert", tmp_path / "bert")
    assert card(tmp_path / "bert")[0] == {
        "library_name": "transformers", "pipeline_tag": "fill-mask", "tags": ["bert", "mlm"],
        "metrics": ["perplexity", "accuracy"],
    }  # fmt: skip
    exported("labels", tmp_path / "labels")
    front = card(tmp_path / "labels")[0]
    assert front["pipeline_tag"] == "text-classification"
    assert front["metrics"] == ["accuracy", "precision", "recall", "f1"]


def test_the_card_describes_the_model_and_its_training(tmp_path):
    folder, out = RunDir(Path("runs/bert")), tmp_path / "out"
    exported("bert", out, 4)
    text = card(out)[1]
    parameters = sum(p.numel() for p in model("bert").parameters())
    assert f"A `BertForMaskedLM` of {parameters:,} parameters, trained for masked language modelling" in text
    assert "the checkpoint of step 4, which had seen 48 samples and " in text
    for name, value in folder.saved(4).state["evaluation"].items():
        if name != "step":
            assert f"| {name.removeprefix('eval/')} | {value:.4f} |" in text
    facts = json.loads(folder.facts.read_text())
    for side in ("train", "validation"):
        assert f"| {side} | {facts['samples'][side]:,} | {facts['tokens'][side]:,} |" in text
    assert "path `corpus.txt`" in text
    assert folder.recipe.read_text() in text.partition("```yaml\n")[2].partition("```")[0]
    known = json.loads((folder.path / "environment.json").read_text())
    assert all(f"| {name} | {version} |" in text for name, version in known["versions"].items())
    assert known["host"] not in text


def test_a_git_commit_is_in_the_card(copied):
    file = copied.path / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "git": "8c1f" * 10}))
    export(str(copied.path), "best", None, "1GiB", Console(quiet=True))
    assert f"| git commit | `{'8c1f' * 10}` |" in card(copied.path / "export")[1]


@pytest.mark.parametrize("name", ["bert", "labels"])
def test_the_code_of_the_card_runs(tmp_path, capsys, name):
    exported(name, tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path / "out")[1], re.DOTALL)
    exec(code.replace("path/to/this/folder", str(tmp_path / "out")), {})
    assert "'score': " in capsys.readouterr().out


def test_progress_is_for_terminals(tmp_path, printed):
    assert printed(lambda console: export("runs/bert", "best", tmp_path / "one", "10kB", console)) == []
    lines = printed(lambda console: export("runs/bert", "best", tmp_path / "two", "10kB", console), styled=True)
    assert any("export" in line for line in lines)
