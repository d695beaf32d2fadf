"""What runs code, and what never does: each sentence of the README's table under "What executes code"."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from safetensors.torch import load_file
from support import warm_start

from launcher.config import code_origin, kinds, load, trust
from launcher.config.errors import UserError
from launcher.models import pretrained
from launcher.plan import notes
from launcher.plan.model_requirements import ModelRequirements
from launcher.storage.checkpoint_format import checksum

pytestmark = pytest.mark.cold_start
MARK = "open({file!r}, 'w').write('x')\n"
TASK = "from launcher.tasks import tabular_regression as t\n\nclass Config(t.Config):\n    kind: str\n\nTask = t.Task\n"


@pytest.fixture
def here(workspace, monkeypatch):
    """A folder of the user's, with nothing allowed yet."""
    monkeypatch.setattr(trust, "_trusted", {})
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # what is added goes with it
    before = set(sys.modules)
    yield workspace
    for name in set(sys.modules) - before:
        if (
            str(workspace)
            in f"{getattr(sys.modules[name], '__file__', '')} {getattr(sys.modules[name], '__path__', '')}"
        ):
            del sys.modules[name]


def code(file: str, text: str = TASK) -> None:
    """A module that leaves PWNED behind where it is imported, and is a task."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(MARK.format(file=str(Path("PWNED").absolute())) + text)


def run_folder(folder: str = "runs/evil", **changes) -> Path:
    """What `evaluate`, `compare` and others take for a run."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    support.write(support.small("evil", **changes), path / "recipe.yaml")
    (path / "facts.json").write_text("{}")
    (path / "plan.json").write_text("{}")
    return path


def ran() -> bool:
    return Path("PWNED").exists()


def refusal(action, *arguments) -> str:
    with pytest.raises(UserError) as told:
        action(*arguments)
    assert len(told.value.problems) == 1
    assert "\n" not in str(told.value)
    return str(told.value)


# Plug-ins


@pytest.mark.parametrize("kind", ["runs.evil.payload", "runs.evil.deep.payload", "b.payload", "saved.payload"])
def test_no_code_is_taken_from_a_run_folder_a_bundle_or_a_checkpoint(here, kind):
    run_folder()
    for folder, marks in (("b", ("recipe.yaml", "bundle.json")), ("saved", ("COMPLETE", "state.json"))):
        Path(folder).mkdir()
        for mark in marks:
            Path(folder, mark).touch()
    code(f"{kind.replace('.', '/')}.py")
    told = refusal(load.recipe, support.write(support.small(task={"kind": kind}), "mine.yaml"))
    assert told.startswith("mine.yaml:") and f"task: kind '{kind}' is not imported: payload.py lies in " in told
    assert not ran()


def test_a_package_of_a_run_folder_is_not_run_to_find_its_modules(here):
    code(f"{run_folder()}/pack/__init__.py", "")
    code("runs/evil/pack/payload.py")
    refusal(load.recipe, support.write(support.small(task={"kind": "runs.evil.pack.payload"})))
    assert not ran()


def test_no_code_is_taken_from_the_cache(here, monkeypatch):
    monkeypatch.setenv("LAUNCHER_CACHE", str(here / "cache"))
    code("cache/models/payload.py")
    told = refusal(load.recipe, support.write(support.small(task={"kind": "cache.models.payload"})))
    assert "payload.py lies in cache/models, a part of the cache" in told
    assert not ran()


def test_a_link_into_a_run_folder_is_followed(here):
    code(f"{run_folder(here / 'elsewhere' / 'evil')}/payload.py")
    Path("own").symlink_to("elsewhere/evil")
    told = refusal(load.recipe, support.write(support.small(task={"kind": "own.payload"})))
    assert "payload.py lies in " in told and not ran()


def test_a_run_folder_is_known_by_its_files_wherever_it_lies(here):
    code(f"{run_folder(here / 'received')}/payload.py")
    assert code_origin.artefact(Path("received/payload.py")) == "received, a run folder"
    refusal(load.recipe, support.write(support.small(task={"kind": "received.payload"})))
    assert not ran()


def test_a_recipe_of_the_users_own_runs_code_of_the_current_folder_and_of_installed_packages(here):
    code("own/task.py")
    load.recipe(support.write(support.small(task={"kind": "own.task"})))
    assert ran()
    Path("PWNED").unlink()
    code("site/site-packages/installed_pkg/task.py")
    sys.path.insert(0, str(here / "site" / "site-packages"))
    load.recipe(support.write(support.small(task={"kind": "installed_pkg.task"})))
    assert ran()


def test_a_stored_recipe_runs_code_of_the_current_folders_project(here):
    code("own/task.py")
    load.stored(run_folder(task={"kind": "own.task"}) / "recipe.yaml")
    assert ran()


@pytest.mark.parametrize("way", ["stored", "named", "inherited"])
def test_a_stored_recipe_that_names_an_installed_package_asks_for_trust(here, way):
    code("site/site-packages/installed_pkg/task.py")
    sys.path.insert(0, str(here / "site" / "site-packages"))
    file = run_folder(task={"kind": "installed_pkg.task"}) / "recipe.yaml"
    Path("mine.yaml").write_text("base: runs/evil/recipe.yaml\n")
    action = {
        "stored": lambda: load.stored(file), "named": lambda: load.recipe(file),
        "inherited": lambda: load.recipe("mine.yaml"),
    }[way]  # fmt: skip
    told = refusal(action)
    assert told.endswith("runs/evil/recipe.yaml names it, not you (--trust installed_pkg.task runs it)")
    assert not ran()
    trust.trust(["installed_pkg.task"])
    action()
    assert ran()


def test_what_came_with_a_run_is_not_the_users_project(here):
    code("received/lib/task.py")
    file = run_folder("received/run", task={"kind": "received.lib.task"}) / "recipe.yaml"
    assert "(--trust received.lib.task runs it)" in refusal(load.stored, file)
    assert not ran()


def test_a_run_that_was_begun_is_gone_on_with_by_the_recipe_that_the_user_names(here):
    code("site/site-packages/installed_pkg/task.py")
    sys.path.insert(0, str(here / "site" / "site-packages"))
    load.recipe(support.write(support.small(task={"kind": "installed_pkg.task"})))
    load.stored(run_folder(task={"kind": "installed_pkg.task"}) / "recipe.yaml")


def test_an_override_is_the_users_word(here):
    code("site/site-packages/installed_pkg/task.py")
    sys.path.insert(0, str(here / "site" / "site-packages"))
    load.recipe(run_folder() / "recipe.yaml", ["task={kind: installed_pkg.task}"])
    assert ran()


@pytest.mark.parametrize("own", [True, False])
def test_a_point_of_a_sweep_that_names_code_is_gone_on_with(here, own):
    """Of a recipe of the user's, and of a stored one: the words of the grid are the user's."""
    code("site/site-packages/installed_pkg/task.py")
    sys.path.insert(0, str(here / "site" / "site-packages"))
    file = support.write(support.small()) if own else run_folder("runs/first") / "recipe.yaml"
    point = load.recipe(file).override("task.kind=installed_pkg.task", "name=point")
    assert ran() and trust.all_names() == ["installed_pkg.task"]
    load.dump(point.value, run_folder("runs/point") / "recipe.yaml")
    assert load.stored(Path("runs/point/recipe.yaml")).value == point.value


@pytest.mark.parametrize(
    "factory", ["subprocess.call", "os:system", "own.models:run", "launcher.config.atomic_files:write"]
)
def test_a_stored_recipe_calls_no_function_of_others(here, factory):
    Path("own").mkdir()
    Path("own/models.py").write_text("from subprocess import run\n")
    options = {"args": ["touch", "PWNED"]}
    file = run_folder(model={"kind": "factory", "factory": factory, "options": options}) / "recipe.yaml"
    assert f"runs/evil/recipe.yaml names it, not you (--trust {factory} runs it)" in refusal(load.stored, file)
    trust.trust([factory])
    load.stored(file)
    assert not ran()


def test_the_model_of_a_run_is_as_much_somebody_elses(here):
    model = {"kind": "factory", "factory": "os:system", "options": {"command": "touch PWNED"}}
    run_folder(model=model)
    file = support.write(support.small(model={"kind": "run", "run": "runs/evil"}), "mine.yaml")
    told = refusal(load.recipe, file)
    assert told.startswith("mine.yaml:") and "(--trust os:system runs it)" in told
    assert not ran()


def test_runs_that_name_each_other_are_told(here):
    for one, other in (("a", "b"), ("b", "a")):
        run_folder(f"runs/{one}", model={"kind": "run", "run": f"runs/{other}"})
    told = refusal(load.recipe, support.write(support.small(model={"kind": "run", "run": "runs/a"}), "mine.yaml"))
    assert "names itself, by way of others" in told


def test_ranks_read_what_the_launcher_has_checked(here):
    code("site/site-packages/installed_pkg/task.py")
    sys.path.insert(0, str(here / "site" / "site-packages"))
    load.trusted(run_folder(task={"kind": "installed_pkg.task"}) / "recipe.yaml")


@pytest.mark.cold_start(False)
def test_every_command_that_takes_a_run_refuses_its_code_in_one_line(here):
    """The commands themselves: no other test sees that each of them looks first, and that those which only read numbers
    import nothing."""
    file = support.write(support.small(data__validation={"fraction": 0.2}))
    support.launcher("prepare", file, "--to", "b")
    support.launcher("run", file, "--ranks", 1, "name=evil")
    for folder in ("runs/evil", "b"):
        recipe, kind = Path(folder, "recipe.yaml"), f"{folder.replace('/', '.')}.payload"
        recipe.write_text(recipe.read_text().replace("kind: tabular_regression", f"kind: {kind}"))
        code(f"{folder}/payload.py")
    Path("rows.jsonl").write_text('{"features": [1, 2, 3]}\n')
    for words in (
        ["evaluate", "runs/evil"], ["export", "runs/evil"], ["predict", "runs/evil", "--data", "rows.jsonl"],
        ["run", "--from", "b"], ["debug", "runs/evil/recipe.yaml"], ["plan", "b/recipe.yaml"],
    ):  # fmt: skip
        done = support.launcher(*words, code=2)
        assert done.stderr.count("\n") == 1 and "payload.py lies in " in done.stderr
    for words in (["compare", "runs/evil"], ["status"], ["status", "runs/evil"]):
        support.launcher(*words)
    assert not ran()


def test_an_installed_task_is_trained_by_another_starter_and_evaluated_with_trust(here, monkeypatch):
    """The decision reaches the ranks of torchrun, which read the recipe of the run folder."""
    code("site/site-packages/installed_pkg/task.py")
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(here / "site/site-packages"), before])))
    recipe = support.small(task={"kind": "installed_pkg.task"}, data__validation={"fraction": 0.2})
    support.launcher("run", support.write(recipe), "--ranks", 1, "--via", "torchrun")
    done = support.launcher("evaluate", "runs/tiny", code=2)
    assert "(--trust installed_pkg.task runs it)" in done.stderr
    support.launcher("evaluate", "runs/tiny", "--trust", "installed_pkg.task")


def test_in_a_run_folder_no_process_looks_for_modules_in_the_current_folder(here, monkeypatch):
    """The console script, whose children Python would else let look there first."""
    support.launcher("run", support.write(support.small(data__validation={"fraction": 0.2})), "--ranks", 1)
    for name in ("json", "random", "multiprocessing", "torch", "wandb"):
        code(f"runs/tiny/{name}.py", "")
    Path("bin").mkdir()
    Path("bin/start").write_text("from launcher.cli import main\nif __name__ == '__main__':\n    main()\n")
    words = [sys.executable, str(here / "bin" / "start"), "evaluate", ".", "--ranks", "2"]
    done = subprocess.run(words, cwd="runs/tiny", capture_output=True, text=True, check=False)
    assert (done.returncode, ran()) == (0, False), done.stderr


# A model's or a tokenizer's own code

NEED = ModelRequirements("AutoModelForMaskedLM", {}, 50, 0, 32)
CONFIG = {"model_type": "mine_m", "vocab_size": 120, "hidden_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 2, "intermediate_size": 32}  # fmt: skip
AUTO_MAP = {"AutoConfig": "modeling.MineConfig", "AutoModelForMaskedLM": "modeling.Mine"}
MODELING = """from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

class MineConfig(BertConfig):
    model_type = "mine_m"

class Mine(BertForMaskedLM):
    config_class = MineConfig

class Words(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def remote(here, monkeypatch):
    """A model `m` and a tokenizer `tk` that bring code of their own."""
    from launcher.config.tokenizer import TrainTokenizer
    from launcher.prepare import tokenizer

    monkeypatch.setenv("HF_MODULES_CACHE", str(here / "modules"))
    words = tokenizer.train(TrainTokenizer(vocab_size=120), lambda: Path("corpus.txt").read_text().splitlines())
    for folder in ("m", "tk"):
        words.save_pretrained(folder)
        code(f"{folder}/modeling.py", MODELING)
    config = {**CONFIG, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    Path("m/config.json").write_text(json.dumps({**config, "auto_map": AUTO_MAP}))
    of_words = json.loads(Path("tk/tokenizer_config.json").read_text())
    of_words |= {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["modeling.Words", "modeling.Words"]}}
    Path("tk/tokenizer_config.json").write_text(json.dumps(of_words))
    return here


def weights() -> None:
    """Give `m` weights, which any process may read."""
    from transformers import BertConfig, BertForMaskedLM

    config = json.loads(Path("m/config.json").read_text())
    sizes = {name: config[name] for name in (*CONFIG, "pad_token_id") if name != "model_type"}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained("made")
    shutil.copy("made/model.safetensors", "m")


def yes(*arguments, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """The command with somebody who says yes to everything."""
    words = support.command(*arguments)
    done = subprocess.run(words, input="y\n" * 10000, capture_output=True, text=True, timeout=240, check=False)
    assert code is None or done.returncode == code, done.stderr
    return done


def test_the_code_of_a_model_is_not_run_and_told_with_its_file(remote):
    recipe = support.mlm(model={"kind": "pretrained", "name": "./m"}, tokenizer=None)
    done = yes("run", support.write(recipe), "--ranks", 1, code=2)
    where = "model.name: m/config.json: auto_map: names code of its own (modeling.MineConfig, modeling.Mine)"
    assert f"{where}; it is run only with model.trust_remote_code: true in the recipe\n" in done.stderr
    assert done.stderr.count("\n") == 1 and not ran()


def test_the_code_of_a_tokenizer_is_not_run_and_told_with_its_file(remote):
    recipe = support.mlm(tokenizer={"kind": "pretrained", "name": "./tk"})
    done = yes("prepare", support.write(recipe), code=2)
    what = "tk/tokenizer_config.json: auto_map: names code of its own (modeling.Words)"
    assert f"{what}; it is run only with tokenizer.trust_remote_code: true in the recipe\n" in done.stderr
    assert not ran()


@pytest.mark.cold_start(False)
def test_code_that_the_recipe_trusts_is_run_and_the_plan_shouts_it(remote):
    """Training, evaluation with --trust, and export of a model whose architecture transformers does not know."""
    weights()
    model = {"kind": "pretrained", "name": "./m", "trust_remote_code": True}
    words = {"kind": "pretrained", "name": "./tk", "trust_remote_code": True}
    file = support.write(support.mlm("trusted", model=model, tokenizer=words, train__steps=2))
    with warm_start.in_this_environment():
        done = support.launcher("run", file, "--ranks", 2)
        assert "REMOTE CODE: model.trust_remote_code: the code that ./m brings runs as you" in done.stderr
        assert ran() and support.steps("runs/trusted").keys() == {1, 2}
        Path("PWNED").unlink()
        assert "(--trust ./m runs it)" in support.launcher("evaluate", "runs/trusted", code=2).stderr
        assert "auto_map" not in Path("runs/trusted/tokenizer/tokenizer_config.json").read_text()
        assert not ran()
        support.launcher("evaluate", "runs/trusted", "--trust", "./m", "--trust", "./tk")
        support.launcher("export", "runs/trusted", "--trust", "./m", "--trust", "./tk")
        assert Path("runs/trusted/export/modeling.py").is_file()


def test_a_model_that_transformers_knows_is_loaded_without_its_code(remote):
    config = json.loads(Path("m/config.json").read_text())
    Path("m/config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    weights()
    model, notes = pretrained.Model(pretrained.Config(name="./m")).build(NEED)
    assert type(model).__module__.startswith("transformers.") and not notes
    assert not ran()


def test_code_of_another_repository_is_not_run_even_where_it_is_trusted(remote):
    config = json.loads(Path("m/config.json").read_text())
    config["auto_map"] = {name: f"org/other--{value}" for name, value in AUTO_MAP.items()}
    Path("m/config.json").write_text(json.dumps(config))
    model = {"kind": "pretrained", "name": "./m", "trust_remote_code": True}
    done = yes("plan", support.write(support.mlm(model=model, tokenizer=None)), code=2)
    assert "m/config.json: auto_map: names code of another repository (org/other--modeling.MineConfig" in done.stderr


def test_a_kernel_of_the_hub_is_code(remote):
    config = json.loads(Path("m/config.json").read_text())
    kernel = {"model_type": "bert", "attn_implementation": "org/kernel"}
    Path("m/config.json").write_text(json.dumps({**config, **kernel}))
    told = refusal(pretrained.Model(pretrained.Config(name="./m")).build, NEED)
    assert "m/config.json: attn_implementation: names code of the hub (org/kernel)" in told
    file = run_folder(model={"kind": "pretrained", "name": "./m", "attention": "org/kernel"}) / "recipe.yaml"
    assert "(--trust org/kernel runs it)" in refusal(load.stored, file)


def test_a_stored_recipe_trusts_no_code_of_itself(here):
    model = {"kind": "pretrained", "name": "./m", "trust_remote_code": True}
    file = run_folder(model=model, tokenizer={"kind": "pretrained", "name": "./tk", "trust_remote_code": True})
    with pytest.raises(UserError) as told:
        load.stored(file / "recipe.yaml")
    assert ["(--trust ./m runs it)" in str(told.value), "(--trust ./tk runs it)" in str(told.value)] == [True, True]


@pytest.mark.cold_start(False)
def test_what_libraries_print_is_no_answer_of_the_process_that_counts(here):
    code("own/models.py", "import torch\nprint('noise')\ndef make(num_labels):\n    return torch.nn.Linear(3, 1)\n")
    model = {"kind": "factory", "factory": "own.models:make"}
    done = support.launcher("plan", support.write(support.small(model=model)), code=None)
    assert "JSON" not in done.stdout + done.stderr
    Path("own/models.py").write_text("import os\nprint('{}', flush=True)\nos._exit(0)\n")
    done = support.launcher("plan", support.write(support.small(model=model)), code=2)
    assert "model: cannot be built: {}" in done.stderr


# Pickles and scripts


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {Path('PWNED').absolute()}",)


def test_weights_in_a_pickle_are_read_without_running_it(remote):
    config = json.loads(Path("m/config.json").read_text())
    Path("m/config.json").write_text(json.dumps({**config, "model_type": "bert", "auto_map": {}}))
    Path("m/pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    told = refusal(pretrained.Model(pretrained.Config(name="./m")).build, NEED)
    assert told.startswith("model.name: ./m: its weights are a pickle with more than tensors in it")
    weights()
    torch.save(load_file("m/model.safetensors"), "m/pytorch_model.bin")
    Path("m/model.safetensors").unlink()
    _, notes = pretrained.Model(pretrained.Config(name="./m")).build(NEED)
    assert [note for note in notes if note.startswith("m/pytorch_model.bin: a pickle, of which tensors alone are read")]
    assert not ran()


def test_every_array_is_read_without_pickle(here):
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    for file in Path(kinds.__file__).parents[1].rglob("*.py"):
        for line in file.read_text().splitlines():
            assert "np.load(" not in line or "allow_pickle=False" in line, f"{file}: {line}"
            assert "torch.load(" not in line or "weights_only=True" in line, f"{file}: {line}"


def test_the_script_of_a_data_set_is_refused(here):
    code("data/data.py", "")
    data = {"train": {"kind": "hub", "name": "./data"}, "max_length": 32}
    done = yes("prepare", support.write(support.mlm(data=data)), code=2)
    assert "data.train: data: Dataset scripts are no longer supported, but found data.py\n" in done.stderr and not ran()


@pytest.mark.cold_start(False)
def test_a_checkpoint_with_a_pickle_in_place_of_its_tensors_runs_nothing(here):
    """Also where its checksums are those of the pickle."""
    support.launcher("run", support.write(support.small(train__steps=2)), "--ranks", 1)
    (saved,) = Path("runs/tiny/checkpoints").iterdir()
    (file,) = saved.glob("*.safetensors")
    file.write_bytes(pickle.dumps(Evil()))
    (saved / ".metadata").write_bytes(pickle.dumps(Evil()))
    mark = json.loads((saved / "COMPLETE").read_text())
    mark["files"][file.name] = [file.stat().st_size, checksum(file)]
    (saved / "COMPLETE").write_text(json.dumps(mark))
    Path("rows.jsonl").write_text('{"features": [1, 2, 3]}\n')
    done = support.launcher("predict", "runs/tiny", "--data", "rows.jsonl", code=2)
    assert f"{saved}: damaged: its tensors cannot be listed: " in done.stderr and done.stderr.count("\n") == 1
    done = support.launcher("run", "recipe.yaml", "train.steps=2", "--ranks", 1, code=None)
    assert "Traceback" not in done.stderr and not ran()


@pytest.mark.cold_start(False)
def test_inputs_of_predictions_run_nothing(here):
    support.launcher("run", support.write(support.small(train__steps=2)), "--ranks", 1)
    for name in ("rows.csv", "rows.jsonl", "rows.parquet", "rows.arrow"):
        Path(name).write_bytes(pickle.dumps(Evil()))
        done = support.launcher("predict", "runs/tiny", "--data", name, code=2)
        assert "Traceback" not in done.stderr and not ran()


def test_the_plan_names_the_code_that_the_recipe_names(here):
    code("own/task.py")
    support.plugin("sums", "import torch\n\ndef make(**options):\n    return torch.nn.Linear(3, 1)\n")
    model = {"kind": "factory", "factory": "own.sums:make"}
    loaded = load.recipe(support.write(support.small(task={"kind": "own.task"}, model=model)))
    note = "code that the recipe names runs as you, on every node: own.sums:make, own.task"
    assert note in notes._named_code(loaded.value)
    assert notes._named_code(load.recipe(support.write(support.small())).value) == []
