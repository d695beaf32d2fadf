"""What is read of this machine to decide about its devices: files, the build of torch, the driver, torch itself.

Drivers and torch are queried in child processes: a driver that is stuck does not hold up the plan, and no device gets a
context.
"""

import ast
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil
from pydantic import TypeAdapter, ValidationError

from launcher.plan.gpu_report import GpuReport
from launcher.plan.torch_report import TorchReport

Vendor = Literal["nvidia", "hidden nvidia", "amd", "intel", "apple"]
NVML_SECONDS, TORCH_SECONDS = 60.0, 90.0
"""Maximum seconds of a query. Without persistence mode, the driver initialises each GPU anew, for some seconds each,
and a host may have 16; an import of torch takes the most."""
_WSL_DRIVER = "usr/lib/wsl/lib/libcuda.so.1"
"""Library of the NVIDIA driver in the Windows Subsystem for Linux, which has no device files."""


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch. `cuda`, `hip`, `xpu`: the version that it is built for; None: not built for it."""

    version: str = ""
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None


class Machine(Protocol):
    """Facts about a machine."""

    environment: Mapping[str, str]
    """Variables of this process."""

    def vendors(self) -> frozenset[Vendor]:
        """Return the vendors of the accelerators that the system shows. `hidden nvidia`: the host of this container has
        NVIDIA GPUs, but the container has no device file of them."""

    def torch_build(self) -> TorchBuild:
        """Return the installed build of torch."""

    def gpus(self) -> GpuReport:
        """Return the answer of NVML."""

    def torch(self) -> TorchReport:
        """Return the answer of torch."""

    def is_foreign(self, pid: int) -> bool:
        """Return whether a process on a device belongs to another job. This process, other ranks of its starter, and
        the server of CUDA MPS, which shares a device, do not."""


class ThisMachine:
    """This machine, at the first query of each kind."""

    environment: Mapping[str, str] = os.environ

    def vendors(self) -> frozenset[Vendor]:
        return _vendors(Path("/"), sys.platform)

    def torch_build(self) -> TorchBuild:
        return _torch_build()

    def gpus(self) -> GpuReport:
        return _gpus()

    def torch(self) -> TorchReport:
        return _torch()

    def is_foreign(self, pid: int) -> bool:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            own = pid == os.getpid() or process.ppid() == os.getppid()
            return not own and not process.name().startswith("nvidia-cuda-mps")
        return True


def _vendors(root: Path, platform: str) -> frozenset[Vendor]:
    """Return the vendors whose device files are below `root`."""
    found = set[Vendor]()
    nvidia = [*(root / "dev").glob("nvidia[0-9c]*"), *(root / path for path in ("dev/nvmap", _WSL_DRIVER))]
    if any(file.exists() for file in nvidia):
        found.add("nvidia")
    elif (root / "proc/driver/nvidia").exists():
        found.add("hidden nvidia")
    if (root / "dev/kfd").exists():
        found.add("amd")
    for file in (root / "sys/class/drm").glob("renderD*/device/vendor"):
        with suppress(OSError):
            if file.read_text().strip() == "0x8086":
                found.add("intel")
    return frozenset({*found, "apple"} if platform == "darwin" else found)


@functools.cache
def _torch_build() -> TorchBuild:
    """Read the module in which torch keeps its version, without an import of torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return TorchBuild()
    values = dict[str, str | None]()
    for node in ast.parse(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")).body:
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        for name in (target.id for target in targets if isinstance(target, ast.Name)):
            with suppress(ValueError):
                values[name] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return TorchBuild(values.get("__version__") or "", values.get("cuda"), values.get("hip"), values.get("xpu"))


@functools.cache
def _gpus() -> GpuReport:
    answer = query("gpus", NVML_SECONDS)
    if answer.stuck:
        what = f"the NVIDIA driver did not answer in {NVML_SECONDS:.0f} s"
        return GpuReport(error=what, advice="look for Xid errors in dmesg, and reboot", stuck=True)
    try:
        return TypeAdapter(GpuReport).validate_json(answer.text)
    except ValidationError:
        return GpuReport(error=f"NVML: {answer.error}")


@functools.cache
def _torch() -> TorchReport:
    answer = query("torch", TORCH_SECONDS)
    if answer.stuck:
        return TorchReport(error=f"torch did not answer in {TORCH_SECONDS:.0f} s", stuck=True)
    try:
        return TypeAdapter(TorchReport).validate_json(answer.text)
    except ValidationError:
        return TorchReport(error=f"torch: {answer.error}")


@dataclass(frozen=True)
class Answer:
    """Answer of a child process. `text`: its output. `error`: the last line of its standard error. `stuck`: it gave no
    answer in time."""

    text: str = ""
    error: str = ""
    stuck: bool = False


def query(topic: str, seconds: float, module: str = "launcher.plan._report_process") -> Answer:
    """Run a report in a child process, which has the module search path of this process. `topic`: an argument of
    `main` in `module`, such as gpus or torch.

    A child that does not answer in time is killed, but not waited for: the kernel may not let it end.
    """
    begin = f"import sys; sys.path[:] = json.loads({json.dumps(json.dumps(sys.path))})"
    code = f"import json; {begin}; from {module} import main; main({topic!r})"
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace",
    )  # fmt: skip
    try:
        text, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        return Answer(stuck=True)
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return Answer(text if child.returncode == 0 else "", last)
