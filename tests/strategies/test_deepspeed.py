"""DeepSpeed's configuration is derived from the recipe, and nothing of the recipe can be said twice."""

import os
import subprocess
import sys
import types

import pytest
import support
import torch

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.strategies import _deepspeed_process, _deepspeed_settings, _zero_engine, deepspeed

OURS = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
PLAIN = {"reduce_bucket_size": 13107200, "allgather_bucket_size": 13107200, "overlap_comm": False}
THIRD = {
    "stage3_prefetch_bucket_size": 13107200,
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 26214400,
}
HOST = {"device": "cpu"}
GOLDEN = [
    ({"zero": 0}, {"stage": 0, **PLAIN}),
    ({"zero": 1}, {"stage": 1, **PLAIN}),
    ({"zero": 2}, {"stage": 2, **PLAIN}),
    ({"zero": 3}, {"stage": 3, **PLAIN, **THIRD}),
    ({"zero": 1, "offload": "optimizer"}, {"stage": 1, **PLAIN, "offload_optimizer": HOST}),
    ({"zero": 2, "offload": "optimizer"}, {"stage": 2, **PLAIN, "offload_optimizer": HOST}),
    ({"zero": 3, "offload": "optimizer"}, {"stage": 3, **PLAIN, **THIRD, "offload_optimizer": HOST}),
    ({"zero": 3, "offload": "all"}, {"stage": 3, **PLAIN, **THIRD, "offload_optimizer": HOST, "offload_param": HOST}),
]


def config(**keys):
    return deepspeed.Config.model_validate({"kind": "deepspeed", **keys})


def refusals(strategy, **changes):
    recipe = Recipe.model_validate(support.mlm(strategy={"kind": "deepspeed", **strategy}, **changes))
    return deepspeed.Strategy(recipe.strategy).refusals(recipe, 2)


@pytest.mark.parametrize(("keys", "zero"), GOLDEN)
def test_settings_follow_from_the_recipe(keys, zero):
    assert _deepspeed_settings.settings(config(**keys), "fp32", "cpu") == {**OURS, "zero_optimization": zero}


@pytest.mark.parametrize(("zero", "overlapped"), [(0, False), (1, True), (2, True), (3, True)])
def test_on_gpus_the_reduction_overlaps_with_the_backward(zero, overlapped):
    """`extra` decides it all the same."""
    known = _deepspeed_settings.settings(config(zero=zero), "fp32", "cuda")
    assert known["zero_optimization"]["overlap_comm"] is overlapped
    extra = {"zero_optimization": {"overlap_comm": False}}
    known = _deepspeed_settings.settings(config(zero=zero, extra=extra), "fp32", "cuda")
    assert known["zero_optimization"]["overlap_comm"] is False


def test_tf32_is_stored_and_reduced_as_fp32():
    tf32, fp32 = (_deepspeed_settings.settings(config(), precision, "cuda") for precision in ("tf32", "fp32"))
    assert tf32 == fp32 and "torch_autocast" not in tf32


MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
COMPILERS = """
import sys
run = []
sys.addaudithook(lambda event, values: run.append(values[0]) if event in ("subprocess.Popen", "os.system") else None)
from launcher.strategies import _deepspeed_process
_deepspeed_process.load("cpu")
assert sys.modules["deepspeed.comm.torch"].build_shm_op() is None
print([name for name in run if name != "uname"])  # mlflow, which DeepSpeed imports where it is, asks for the platform
"""


def test_no_compiler_is_tried_for_operations_that_are_not_used():
    """In a process of its own, since DeepSpeed would try them once a process."""
    done = subprocess.run([sys.executable, "-c", COMPILERS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("device", "environment", "local"),
    [
        # a rank that sees its own device only
        (torch.device("cuda", 0), {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "5"}, "0"),
        (torch.device("cuda", 0), {**MPI, "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, "0"),
        (torch.device("cuda", 3), {}, "3"),
        (torch.device("cpu"), {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, "1"),
        (torch.device("cpu"), {**MPI, "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, "1"),
        (torch.device("cpu"), {}, "0"),
    ],
)
def test_deepspeed_finds_the_device_of_a_rank(monkeypatch, device, environment, local):
    of_mpi = "OMPI_COMM_WORLD_LOCAL_RANK"
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", of_mpi):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _deepspeed_process.set_local_rank(device)
    assert os.environ["LOCAL_RANK"] == local
    assert os.environ.get(of_mpi, local) == local  # DeepSpeed requires that they are equal


@pytest.mark.parametrize(("offload", "mesh"), [("none", "cuda"), ("optimizer", "cpu"), ("all", "cpu")])
def test_the_state_of_an_offloaded_run_is_on_the_host(monkeypatch, offload, mesh):
    """By the device of the mesh, which is that of every tensor of the state."""
    asked = []

    class Named(Exception):
        pass

    def init(device, shape):
        asked.append((device, shape))
        raise Named

    monkeypatch.setattr(_zero_engine, "init_device_mesh", init)
    known = _deepspeed_settings.settings(config(zero=3, offload=offload), "fp32", "cuda")
    process = types.SimpleNamespace(device=torch.device("cuda", 0), world=4)
    unwrapped = types.SimpleNamespace(model=None, process=process)
    engine = types.SimpleNamespace(optimizer=types.SimpleNamespace())
    with pytest.raises(Named):
        _zero_engine.Zero3(engine, unwrapped, _deepspeed_settings.offloads(known))
    assert asked == [(mesh, (4,))]


@pytest.mark.parametrize(("precision", "half"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_precision_is_its_autocast(precision, half):
    """As everywhere: parameters, gradients and moments stay in fp32."""
    assert _deepspeed_settings.settings(config(zero=1), precision, "cpu") == {
        **OURS,
        "zero_optimization": {"stage": 1, **PLAIN},
        "torch_autocast": {"enabled": True, "dtype": half, "lower_precision_safe_modules": []},
    }


def test_a_bucket_is_told_in_numbers_of_four_bytes():
    zero = _deepspeed_settings.settings(config(zero=3, bucket_mb=0.5), "fp32", "cpu")["zero_optimization"]
    assert {zero[key] for key in zero if key.endswith("bucket_size")} == {0.5 * 2**20 / 4}


def test_what_is_extra_is_merged_and_beside_ours():
    extra = {"wall_clock_breakdown": True, "zero_optimization": {"round_robin_gradients": True, "overlap_comm": True}}
    assert refusals({"extra": extra}) == []
    assert _deepspeed_settings.settings(config(extra=extra), "fp32", "cpu") == {
        **OURS,
        "wall_clock_breakdown": True,
        "zero_optimization": {"stage": 1, **PLAIN, "round_robin_gradients": True, "overlap_comm": True},
    }


@pytest.mark.parametrize(
    ("extra", "key", "ours"),
    [
        ({"train_batch_size": 8}, "train_batch_size", "train.global_batch"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps", "train.max_tokens"),
        ({"gradient_clipping": 0.5}, "gradient_clipping", "optimizer.clip"),
        ({"optimizer": {"type": "Adam", "params": {"lr": 1}}}, "optimizer", "optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler", "schedule"),
        ({"fp16": {"enabled": True}}, "fp16", "train.precision"),
        ({"bf16": {"enabled": True}}, "bf16", "train.precision"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage", "strategy.zero"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "zero_optimization.offload_param",
         "strategy.offload"),
        ({"zero_optimization": {"reduce_bucket_size": 5}}, "zero_optimization.reduce_bucket_size",
         "strategy.bucket_mb"),
        ({"activation_checkpointing": {"partition_activations": True}}, "activation_checkpointing",
         "train.activation_checkpointing"),
        ({"seed": 5}, "seed", "seed"),
    ],
)  # fmt: skip
def test_what_the_recipe_decides_is_refused_with_its_key(extra, key, ours):
    assert refusals({"extra": extra}) == [(f"strategy.extra.{key}", f"is decided by {ours} (set it there)")]


@pytest.mark.parametrize(("zero", "refused"), [(0, []), (1, ["model.unfreeze_at"]), (3, ["model.unfreeze_at"])])
def test_what_thaws_later_has_steps_of_its_own(zero, refused):
    told = refusals({"zero": zero}, model__freeze=["bert"], model__unfreeze_at=3)
    assert [key for key, _ in told] == refused


def test_a_checkpoint_whose_parameters_have_steps_of_their_own_is_refused():
    engine = object.__new__(_zero_engine.Zero12)
    engine._trained, engine._counts, engine._moments = dict.fromkeys("ab"), True, []
    with pytest.raises(UserError, match=r"strategy: DeepSpeed .*, these have 3 to 7 \(take ddp or fsdp"):
        engine.load_state_dict({"optimizer.a.step": torch.tensor(7.0), "optimizer.b.step": torch.tensor(3.0)})


@pytest.mark.parametrize("instead", [3, True, None, [1]])
def test_a_map_of_ours_is_not_replaced_by_something_else(instead):
    told = [("strategy.extra.zero_optimization", "should be a map of keys and values")]
    assert refusals({"extra": {"zero_optimization": instead}}) == told


def test_all_that_is_refused_is_told_at_once():
    extra = {"seed": 1, "zero_optimization": {"stage": 2, "round_robin_gradients": True}}
    told = refusals({"zero": 3, "extra": extra}, train__precision="fp64", train__compile=True)
    assert [key for key, _ in told] == [
        "strategy.extra.seed", "strategy.extra.zero_optimization.stage", "strategy", "train.compile",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"zero": 0, "offload": "optimizer"}, "offload: optimizer needs zero: 1, 2 or 3, not 0"),
        ({"zero": 2, "offload": "all"}, "offload: all needs zero: 3, not 2"),
        ({"zero": 1, "offload": "optimizer"}, None),
        ({"zero": 3, "offload": "all"}, None),
    ],
)
def test_what_is_offloaded_must_be_sharded(keys, told):
    assert deepspeed.Strategy(config(**keys)).check(2) == told
