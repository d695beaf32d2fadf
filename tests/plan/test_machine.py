import os
import subprocess
import sys

import pytest
import torch

from launcher.plan import machine
from launcher.plan.gpu_report import GpuReport
from launcher.plan.machine import Answer, ThisMachine, TorchBuild
from launcher.plan.torch_report import TorchReport


def root(folder, *files):
    for name in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0x8086\n" if name.startswith("sys/class/drm/renderD128") else "0x1002\n")
    return folder


@pytest.mark.parametrize(
    ("files", "vendors"),
    [
        ((), set()),
        (("dev/nvidia0", "dev/nvidiactl"), {"nvidia"}),
        (("dev/nvidiactl",), {"nvidia"}),
        (("dev/nvidia-caps/nvidia-cap1",), set()),
        (("dev/dxg",), set()),
        (("dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"), {"nvidia"}),
        (("dev/nvmap",), {"nvidia"}),
        (("proc/driver/nvidia/version",), {"hidden nvidia"}),
        (("proc/driver/nvidia/version", "dev/nvidia0"), {"nvidia"}),
        (("dev/kfd", "sys/class/drm/renderD129/device/vendor"), {"amd"}),
        (("sys/class/drm/renderD128/device/vendor",), {"intel"}),
    ],
)
def test_the_vendors_whose_devices_the_system_shows(tmp_path, files, vendors):
    assert machine._vendors(root(tmp_path, *files), "linux") == vendors


def test_a_mac_has_the_gpu_of_apple(tmp_path):
    assert machine._vendors(tmp_path, "darwin") == {"apple"}


def test_the_build_of_torch_is_read_without_an_import():
    code = "import sys; from launcher.plan.machine import ThisMachine; print(ThisMachine().torch_build())"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], capture_output=True, text=True
    )
    expected = TorchBuild(str(torch.__version__), torch.version.cuda, torch.version.hip, torch.version.xpu)
    assert done.stdout.strip() == str(expected)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="a machine with a device has other answers")
def test_drivers_and_torch_are_queried_in_child_processes():
    """With the real NVML and torch. An import of torch takes some seconds."""
    assert "driver" in ThisMachine().gpus().error
    assert ThisMachine().torch() == TorchReport()


def test_a_query_that_hangs_is_left_behind(monkeypatch, tmp_path):
    """The child is killed, but not waited for, since one that waits in the kernel does not end."""
    slow = tmp_path / "launcher" / "plan"
    slow.mkdir(parents=True)
    for folder in (slow.parent, slow):
        (folder / "__init__.py").touch()
    (slow / "_report_process.py").write_text("import time\ndef main(topic): time.sleep(600)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert machine.query("gpus", 0.1) == Answer(stuck=True)
    monkeypatch.setattr(machine, "query", lambda topic, seconds: Answer(stuck=True))
    stuck = machine._gpus.__wrapped__()
    assert (stuck.error, stuck.stuck) == ("the NVIDIA driver did not answer in 60 s", True)
    assert machine._torch.__wrapped__().stuck


def test_a_query_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(machine, "query", lambda topic, seconds: Answer(error="Segmentation fault"))
    assert machine._gpus.__wrapped__() == GpuReport(error="NVML: Segmentation fault")
    assert machine._torch.__wrapped__() == TorchReport(error="torch: Segmentation fault")


def test_this_process_and_its_siblings_are_not_foreign():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert ThisMachine().is_foreign(child.pid)
        assert ThisMachine().is_foreign(os.getppid())
        assert not ThisMachine().is_foreign(os.getpid())
        child.communicate(b"\n")
    code = (
        "import sys; from launcher.plan.machine import ThisMachine; print(ThisMachine().is_foreign(int(sys.argv[1])))"
    )
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sibling:
        done = subprocess.run([sys.executable, "-c", code, str(sibling.pid)], capture_output=True, text=True)
        sibling.communicate(b"\n")
    assert done.stdout == "False\n"
