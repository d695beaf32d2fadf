"""Setting of the C library's allocator for ranks that compute on a CPU."""

import ctypes
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""
_NEVER = -1
_LARGEST_BLOCKS = (2**30, 2**25)
"""Sizes in bytes from which a block is mapped on its own, in order of preference. Before 2.35, glibc refuses more than
32 MiB."""
_OF_USER, _TUNABLES = "MALLOC_", "glibc.malloc."


def keep_freed(environment: Mapping[str, str]) -> bool:
    """Let this process keep the memory that it frees, for the next step. Returns whether the C library could do so.

    By default, glibc gives the memory of large tensors back to the kernel, which fills each page with zeros again when
    the next tensor uses it. Nothing changes if the user has set the allocator in the environment, or if the C library
    is another one.
    """
    if any(name.startswith(_OF_USER) for name in environment) or _TUNABLES in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
