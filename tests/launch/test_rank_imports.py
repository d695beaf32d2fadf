"""What the server from which ranks are forked imports for a recipe."""

import os
import subprocess
import sys

import pytest
import support

from launcher.config import env_vars
from launcher.config.recipe import Recipe
from launcher.launch import launch_spec


def imported(folder, names, modules):
    """Import the modules as the server does, and return which are there, and which of its variables are still set."""
    for name, body in modules.items():
        (folder / f"{name}.py").write_text(body)
    code = (
        f"import os, sys; from launcher.launch import _rank_imports; print(*[name in sys.modules for name in {names}], "
        f"*{{'{env_vars.RANK_IMPORTS}', 'PYTORCH_NVML_BASED_CUDA_CHECK'}} & set(os.environ))"
    )
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {env_vars.RANK_IMPORTS: " ".join(names), "PYTHONPATH": path}
    environment.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # a library that another test has imported sets it
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100).stdout


def test_a_module_that_cannot_be_imported_is_left_to_the_ranks(tmp_path):
    """An error of any kind would end the server, and with it every rank."""
    modules = {"refused": "raise RuntimeError('no device')", "sound": "number = 3"}
    assert imported(tmp_path, ["refused", "absent", "sound"], modules) == "False False True\n"


def test_a_server_whose_modules_use_a_device_begins_again_without_them(tmp_path):
    """A process that is forked from one that has used CUDA cannot use it."""
    modules = {"user": "import torch\ntorch.cuda._initialized = True", "sound": "number = 3"}
    assert imported(tmp_path, ["user", "sound"], modules) == "False False\n"


@pytest.mark.parametrize(("type_", "module"), [("bert", "bert"), ("xlm-roberta", "xlm_roberta")])
def test_the_module_of_the_model_and_of_each_part_is_imported_once_for_all_ranks(type_, module):
    made = support.mlm()
    recipe = Recipe.model_validate({**made, "model": {**made["model"], "type": type_}})
    names = launch_spec.imports(recipe)
    assert f"transformers.models.{module}.modeling_{module}" in names
    assert {"launcher.tasks.mlm", "launcher.strategies.ddp", "launcher.optimizers.adamw"} <= set(names)


def test_the_type_of_a_saved_model_is_read_and_nothing_is_needed_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    made, folder = support.mlm(), tmp_path / "saved"
    recipe = Recipe.model_validate({**made, "model": {"kind": "pretrained", "name": str(folder)}})
    assert launch_spec.imports(recipe)[0] == "transformers.modeling_utils"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "deberta-v2"}')
    assert "transformers.models.deberta_v2.modeling_deberta_v2" in launch_spec.imports(recipe)


def test_of_a_model_of_the_hub_any_copy_has_the_type(tmp_path, monkeypatch):
    from launcher.storage import cache_root

    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path))
    recipe = Recipe.model_validate({**support.mlm(), "model": {"kind": "pretrained", "name": "org/some-model"}})
    copy = cache_root.kept("org/some-model", "0" * 40)
    copy.mkdir(parents=True)
    (copy / "config.json").write_text('{"model_type": "bert"}')
    assert "transformers.models.bert.modeling_bert" in launch_spec.imports(recipe)
    other = Recipe.model_validate({**support.mlm(), "model": {"kind": "pretrained", "name": "org/some"}})
    assert launch_spec.imports(other)[0] == "transformers.modeling_utils"
    assert "transformers.models.bert.modeling_bert" not in launch_spec.imports(other)
