"""The record of allocations on fake tensors, and CUDA's rules of autocast on them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from launcher.tools.memory._allocations import Allocations
from launcher.tools.memory._cuda_autocast import CudaAutocast


@pytest.fixture
def allocations():
    return Allocations(FakeTensorMode(allow_non_fake_inputs=True))


def everything(stage):
    return True


def test_the_peak_has_what_lives_then_by_purpose(allocations):
    with allocations.recording():
        weights = torch.zeros(100)
        allocations.name("weights", [weights])
        allocations.enter("forward")
        freed = torch.ones(50)
        del freed
        kept = torch.ones(30) + weights[:30]
        allocations.enter("backward")
        del kept
    assert allocations.peak(lambda stage: stage == "backward") == ("backward", {"weights": 400, "activations": 120})
    assert allocations.peak(everything) == ("forward", {"weights": 400, "activations": 240})
    assert allocations.peak(lambda stage: stage == "start") == ("start", {"weights": 400})


def test_purposes_on_the_host_do_not_count(allocations):
    with allocations.recording():
        weights = torch.zeros(100)
        allocations.name("weights", [weights])
        other = torch.zeros(10)
    assert allocations.peak(everything, frozenset({"weights"}))[1] == {"activations": 40}
    del other


def test_a_view_shares_its_storage_and_a_resized_storage_counts_as_a_buffer(allocations):
    with allocations.recording():
        whole = torch.zeros(100)
        view = whole[:10].view(2, 5)
        whole.untyped_storage().resize_(0)
        other = torch.zeros(50)
        whole.untyped_storage().resize_(400)
    assert allocations.peak(everything)[1] == {"buffers": 400, "activations": 200}
    del view, other


def test_an_allocator_rounds_up():
    allocations = Allocations(FakeTensorMode(), quantum=512)
    with allocations.recording():
        kept = torch.zeros(1), torch.zeros(129)
    assert allocations.peak(everything)[1] == {"activations": 512 + 1024}
    del kept


def test_what_the_program_reads_from_a_tensor_is_a_constant(allocations):
    with allocations.recording():
        values = torch.zeros(3)
        assert float(values.sum()) == 0.0
        assert int(torch.ones(3, dtype=torch.int64).sum()) == 1
        assert bool((values > 1).all())
        assert torch.allclose(values, values + 1)
        assert torch.equal(values, values + 1)


def test_autocast_on_cuda_normalises_in_fp32():
    half = torch.ones(2, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.layer_norm(half, (4,)).dtype == torch.bfloat16
        assert torch.softmax(half, -1).dtype == torch.bfloat16
        with CudaAutocast():
            assert torch.nn.functional.layer_norm(half, (4,)).dtype == torch.float32
            assert torch.softmax(half, -1).dtype == torch.float32
            assert torch.nn.functional.linear(half, half).dtype == torch.bfloat16
    with CudaAutocast():
        assert torch.softmax(half, -1).dtype == torch.bfloat16
