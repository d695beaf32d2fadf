"""Sentences for the errors of a device: out of memory, faults of the hardware, and kernels that crash.

The words are those of torch (c10/cuda/CUDACachingAllocator.cpp, CUDAException.cpp, core/CPUAllocator.cpp) and of the
CUDA runtime (cudaGetErrorString). This module imports the standard library only.
"""

import re

_NO_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed", "unable to allocate")
"""Parts of messages in lower case: of an allocator or CUDA, torch's CPU allocator, cuBLAS and cuDNN, and numpy."""
_WANTED = re.compile(r"(?:[Tt]ried to allocate|Unable to allocate) ([\d.]+ \w+)")
_OTHER_PROCESS = re.compile(r"Process (\d+) has ([\d.]+ \w+) memory in use")
_CUDA_ERROR = re.compile(r"CUDA (?:driver )?error: ([^\n]+)|Cuda failure (?:\d+ )?'([^'\n]+)'")
_FAULT = "leave {host} out and have the device reset or replaced; dmesg there shows the Xid"
_CRASH = (
    "dmesg on {host} shows the Xid: 13 and 31 are mistakes of a kernel, which CUDA_LAUNCH_BLOCKING=1 names; "
    "48, 63, 64, 74, 79, 94 and 95 are faults of the device: leave {host} out"
)
_UNUSABLE = "nvidia-smi and dmesg on {host} say why"
_KINDS = (
    ("ecc error", "has faulty memory", _FAULT),
    ("nvlink", "has a faulty connection", _FAULT),
    (
        "device-side assert", "runs, but a kernel's assertion failed: an index out of range, such as a label or token",
        "no fault of the device: CUDA_LAUNCH_BLOCKING=1, or cluster.device=cpu, names the operation",
    ),
    ("unspecified launch failure", "has crashed in a kernel", _CRASH),
    ("illegal memory access", "has crashed in a kernel", _CRASH),
    ("illegal instruction", "has crashed in a kernel", _CRASH),
    ("misaligned address", "has crashed in a kernel", _CRASH),
    ("invalid program counter", "has crashed in a kernel", _CRASH),
    ("hardware stack error", "has crashed in a kernel", _CRASH),
    (
        "no kernel image", "is not supported by the installed torch",
        "torch.cuda.get_arch_list() shows what it is built for: install one that is built for this device",
    ),
    ("busy or unavailable", "cannot be used", "another process may hold it; " + _UNUSABLE),
    ("no cuda-capable device", "cannot be used", _UNUSABLE),
    ("system not yet initialized", "cannot be used", "the fabric manager may not run; " + _UNUSABLE),
    ("gpu is lost", "is lost", _FAULT),
    ("unknown error", "cannot be used", _UNUSABLE),
)  # fmt: skip
"""Parts of CUDA's error names in lower case, each with what happened to the device, and what to do."""


class OutOfMemory(RuntimeError):
    """Error: a device has no memory left. The message says in which phase, and what to lower."""


class DeviceError(RuntimeError):
    """Error: a device, or a kernel on it, failed. The message names device and host."""


def is_out_of_memory(message: str) -> bool:
    """Return whether an error's message means that memory could not be allocated."""
    return any(word in message.lower() for word in _NO_MEMORY)


def out_of_memory(message: str, device: str, host: str, phase: str, advice: str) -> OutOfMemory:
    """Return the error of a device without memory. `message`: of the library. `phase`: position of the rank."""
    wanted, other = _WANTED.search(message), _OTHER_PROCESS.search(message)
    size = f" (it wanted {wanted[1]} more)" if wanted else ""
    held = f", of which process {other[1]} holds {other[2]}" if other else ""
    return OutOfMemory(f"{device} on {host} ran out of memory{held}, {phase}{size}: {advice}")


def of_device(message: str, device: str, host: str) -> DeviceError | None:
    """Return the error of a device that failed; None: the message is of no known failure of a device."""
    found = _CUDA_ERROR.search(message)
    name = (found[1] or found[2]).strip() if found else ""
    for word, what, advice in _KINDS:
        if word in name.lower():
            return DeviceError(f"{device} on {host} {what} ({name}): {advice.format(host=host)}")
    return None
