import os
import subprocess
import sys
from multiprocessing import forkserver

import pytest
import support

from launcher.config import env_vars
from launcher.distributed import private_tmp
from launcher.launch import Launch, RendezvousSpec, elastic_agent, starter

AT_THE_IMPORT_OF_TORCH = """
import importlib.abc, os, runpy, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(*(os.environ.get(name) for name in ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "PYTORCH_ALLOC_CONF")))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Finder())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
NAMES = ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.fixture
def clean(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", [["launcher.worker"], ["launcher.cli", "debug"]])
def test_a_process_that_trains_by_itself_has_the_defaults_before_it_imports_torch(workspace, clean, command):
    recipe = support.write(support.small("x"))
    argv = [sys.executable, "-c", AT_THE_IMPORT_OF_TORCH, *command, str(recipe)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True, env=os.environ)
    assert ran.stdout == "1 expandable_segments:True\n"


def test_defaults_do_not_replace_what_a_user_has_set_under_any_name():
    given = {"PYTORCH_CUDA_ALLOC_CONF": "backend:native", "NCCL_DEBUG": "INFO", "TORCH_NCCL_TRACE_BUFFER_SIZE": "0"}
    environment = dict(given)
    env_vars.set_rank_defaults(environment)
    assert {name: environment[name] for name in given} == given
    assert environment.keys() - given.keys() == {
        "TRANSFORMERS_VERBOSITY", "TORCH_CUDNN_SDPA_DEPRIORITIZED", "TORCH_NCCL_DUMP_ON_TIMEOUT",
    }  # fmt: skip


class Started(Exception):
    pass


def test_ranks_of_the_launchers_agent_and_of_a_starter_inherit_the_defaults(clean, monkeypatch, tmp_path):
    seen = []

    def start(*args, env=None, **more):
        seen.append(dict(os.environ if env is None else env))
        raise Started

    launch = Launch(tmp_path, 1, "cuda", 1, argv=("torchrun",), env={"PYTORCH_CUDA_ALLOC_CONF": "backend:native"})
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(private_tmp, "enter", lambda: None)
    monkeypatch.setattr(forkserver, "ensure_running", start)
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Started):
        elastic_agent.warm_up()
    os.environ.pop("PYTORCH_ALLOC_CONF")
    with pytest.raises(Started):
        starter.run(launch, RendezvousSpec(tmp_path))
    assert [[environment.get(name) for name in NAMES] for environment in seen] == [
        ["1", "expandable_segments:True", None], ["1", None, "backend:native"],
    ]  # fmt: skip
