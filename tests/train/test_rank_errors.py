import dataclasses

import pytest
import support
import torch
from support import ranks

from launcher.distributed import device_errors, process_group
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.prepare import run_setup
from launcher.train import rank_errors


@pytest.fixture
def run(workspace):
    return run_setup.load(ranks.ready(support.write(support.small("x")), "train.global_batch=8"))


def raised(run, stage, error, **train):
    heartbeat = Heartbeat()
    heartbeat.beat(stage, 3)
    recipe = run.recipe.model_copy(update={"train": run.recipe.train.model_copy(update=train)})
    process = process_group.ProcessGroup(1, 2, torch.device("cuda", 1))
    error.add_note("at step 3")
    with (
        pytest.raises(Exception, match=r".") as caught,
        rank_errors.explained(dataclasses.replace(run, recipe=recipe), process, heartbeat),
    ):
        raise error
    return caught.value


def test_a_full_device_says_in_which_phase_and_which_micro_batch_to_try(run):
    longest = run.facts.longest
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has")
    found = raised(run, Stage.FORWARD, error, max_tokens=4 * longest)
    assert isinstance(found, device_errors.OutOfMemory) and found.__cause__ is error
    assert found.__notes__ == ["at step 3"]
    assert str(found).startswith("cuda:1 on ")
    assert str(found).endswith(
        " ran out of memory, in the forward pass (it wanted 2.00 GiB more): lower train.max_tokens "
        f"(now {4 * longest}: try {2 * longest})"
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tri")])
def test_memory_that_no_micro_batch_takes_needs_another_strategy(run, error):
    found = str(raised(run, Stage.SAVING, error, max_tokens=None))
    assert "saving a checkpoint: lower train.max_tokens (not set: try " in found
    assert found.endswith("; strategy.kind=fsdp shards what does not depend on it")


def test_a_micro_batch_of_one_sample_cannot_be_smaller(run):
    error = RuntimeError("CUDA error: out of memory")
    found = str(raised(run, Stage.BACKWARD, error, max_tokens=run.facts.longest))
    assert "is one sample: try train.activation_checkpointing=layers; strategy.kind=fsdp" in found


def test_a_failed_device_is_named_and_other_errors_are_left_alone(run):
    found = raised(run, Stage.FORWARD, RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors"))
    assert isinstance(found, device_errors.DeviceError) and "label or token" in str(found)
    other = RuntimeError("shapes do not match")
    assert raised(run, Stage.FORWARD, other) is other
