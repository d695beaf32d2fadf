import numpy as np
import pytest
import torch

from launcher.distributed import device_errors

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.15 GiB of which 1.12 GiB is "
    "free. Process 4711 has 70.31 GiB memory in use. Including non-PyTorch memory, this process has 7.72 GiB memory in "
    "use."
)
HINT = "\nCUDA kernel errors might be asynchronously reported at some other API call\nFor debugging consider passing"


def cpu_allocator():
    torch.empty(1 << 60, dtype=torch.uint8)


def numpy_allocator():
    np.ones(1 << 60, dtype=np.uint8)


@pytest.mark.parametrize("allocate", [cpu_allocator, numpy_allocator])
def test_allocators_of_the_cpu_are_known(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert device_errors.is_out_of_memory(str(caught.value))


@pytest.mark.parametrize(
    "message",
    [
        CUDA, "CUDA error: out of memory", "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error in: NCCLUtils.hpp:268, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    ],
)  # fmt: skip
def test_libraries_of_a_gpu_are_known(message):
    assert device_errors.is_out_of_memory(message)


def test_a_full_device_is_named_with_who_else_holds_it():
    error = device_errors.out_of_memory(CUDA, "cuda:3", "node7", "in the backward pass", "lower train.max_tokens")
    assert str(error) == (
        "cuda:3 on node7 ran out of memory, of which process 4711 holds 70.31 GiB, in the backward pass (it wanted "
        "2.00 GiB more): lower train.max_tokens"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uncorrectable ECC error encountered", ("has faulty memory", "leave node7 out")),
        ("unspecified launch failure", ("has crashed in a kernel", "dmesg on node7")),
        ("an illegal memory access was encountered", ("has crashed in a kernel", "CUDA_LAUNCH_BLOCKING=1")),
        ("device-side assert triggered", ("an index out of range", "no fault of the device")),
        ("no kernel image is available for execution on the device", ("is not supported by", "install one")),
        ("all CUDA-capable devices are busy or unavailable", ("cannot be used", "nvidia-smi")),
    ],
)
@pytest.mark.parametrize("form", ["CUDA error: {}" + HINT, "NCCL error\nLast error:\nCuda failure 719 '{}'"])
def test_a_failed_device_is_named_with_what_to_do(name, words, form):
    error = str(device_errors.of_device(form.format(name), "cuda:3", "node7"))
    assert error.startswith("cuda:3 on node7 ") and "\n" not in error
    assert all(word in error for word in (*words, f"({name})"))


def test_other_errors_are_no_failure_of_a_device():
    for message in ("an illegal memory access was encountered", "CUDA error: invalid argument", "no such key"):
        assert device_errors.of_device(message, "cuda:0", "a") is None
        assert not device_errors.is_out_of_memory(message)
