import subprocess
import sys

import pytest
import support

from launcher.config import trust
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.launch import elastic_agent, launch_spec
from launcher.plan.plan import Plan


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setattr(trust, "_trusted", {})  # what earlier tests of this process trust
    return Plan(
        name="a", folder="runs/a b", prepared="p", nodes=1, devices_per_node=3, ranks=3, tensor_parallel=1,
        device="cpu", threads=2, strategy="ddp", precision="fp32", global_batch=6, micro_batches=1, micro_samples=2,
        steps=9, epochs=None, samples=None, tokens=None, model="m", parameters=1, memory={}, memory_per_device=1,
        checkpoint_bytes=1, checkpoints_kept=1, free_disk=1, resume_from=None, max_restarts=4, command="c", notes=[],
    )  # fmt: skip


def test_by_default_an_agent_in_this_process_starts_the_ranks(plan):
    made = launch_spec.train(plan, Cluster(env={"NCCL_DEBUG": "INFO"}))
    assert (made.ranks, made.threads, made.max_restarts, made.argv) == (3, 2, 4, ())
    assert made.env == {"NCCL_DEBUG": "INFO"}


def test_torchrun_gets_the_resolved_recipe(plan):
    assert list(launch_spec.train(plan, Cluster(), "torchrun").argv) == [
        "torch.distributed.run", "--nproc-per-node", "3", "--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file",
        "--max-restarts", "4", "-m", "launcher.worker", "runs/a b/recipe.yaml",
    ]  # fmt: skip


def test_a_starters_ranks_trust_what_the_launcher_does(plan):
    trust.trust(["mine.rows"])
    assert list(launch_spec.train(plan, Cluster(), "torchrun").argv)[-3:] == [
        "--trust",
        "mine.rows",
        "runs/a b/recipe.yaml",
    ]


def test_accelerate_gets_the_resolved_recipe_and_nothing_of_the_users_configuration(plan):
    assert list(launch_spec.train(plan, Cluster(), "accelerate").argv) == [
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", "3", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "--rdzv_backend", "c10d", "--rdzv_conf", "store_type=file", "-m", "launcher.worker", "runs/a b/recipe.yaml",
    ]  # fmt: skip


def test_a_small_model_is_trained_without_transformers():
    """Of the ranks' server all is imported but the module that ties its life to the launcher's."""
    small, bert = (Recipe.model_validate(made) for made in (support.small(), support.mlm()))
    assert "transformers.modeling_utils" in launch_spec.imports(bert)
    named = [name for name in (*elastic_agent.IMPORTS, *launch_spec.imports(small)) if not name.endswith("_server")]
    code = f"import sys; [__import__(name) for name in {named}]; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"


def test_an_evaluation_names_its_checkpoint(plan):
    made = launch_spec.evaluate(plan, {}, 40)
    assert (made.job, made.checkpoint) == ("evaluate", 40)
