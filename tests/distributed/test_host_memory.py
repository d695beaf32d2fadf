import subprocess
import sys

import pytest

FAULTS = """
import os, resource, sys
import torch
from launcher.distributed.host_memory import keep_freed
kept = keep_freed({name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"})
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (40, 50, 60):
        torch.ones(size * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):
    faults()
print(kept, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
@pytest.mark.parametrize(
    ("variable", "value"),
    [("A", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")],
)
def test_a_freed_tensor_is_reused_without_page_faults_unless_the_user_decides(variable, value, monkeypatch):
    """Takes 2 s a case: it alone proves that glibc obeys, in a process of its own."""
    monkeypatch.setenv(variable, value)
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, faults = run.stdout.split()
    assert (kept, int(faults) < 5000) == (("True", True) if variable == "A" else ("False", False)), faults
