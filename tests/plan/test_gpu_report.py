import pynvml
import pytest
from support.fake_nvml import GIB, FakeNvml, Gpu, gpus, mig

from launcher.plan import gpu_report
from launcher.plan.gpu_report import GpuFacts, GpuProcess, GpuReport


def test_a_gpu_with_its_processes():
    nvml = FakeNvml([Gpu("Tesla V100-SXM2-16GB", "GPU-a", 16 * GIB, GIB, (7, 0), processes={41: GIB, 42: None})], 12040)
    made = gpu_report.make(nvml)
    assert (made.driver, made.cuda, made.error) == ("580.65.06", (12, 4), "")
    processes = (GpuProcess(41, GIB), GpuProcess(42, None))
    assert made.gpus == (GpuFacts("Tesla V100-SXM2-16GB", "GPU-a", 16 * GIB, GIB, (7, 0), processes=processes),)


@pytest.mark.parametrize(("reserved", "memory"), [(GIB // 2, 40 * GIB - GIB // 2), (None, 40 * GIB)])
def test_memory_that_the_driver_reserves_is_left_out(reserved, memory):
    """An old driver does not report it."""
    assert gpu_report.make(FakeNvml([Gpu(reserved=reserved)])).gpus[0].memory == memory


def test_a_gpu_that_shares_the_memory_of_the_host_reports_none():
    found = gpu_report.make(FakeNvml([Gpu(memory=None)])).gpus[0]
    assert (found.memory, found.used, found.capability) == (None, None, (8, 0))


def test_mig_slices_have_their_own_memory_and_free_places_are_left_out():
    slices = [mig("MIG-a", 5 * GIB), None, mig("MIG-b", 20 * GIB)]
    (gpu,) = gpu_report.make(FakeNvml([Gpu(slices=slices)])).gpus
    assert gpu.mig
    assert [(part.uuid, part.memory) for part in gpu.slices] == [("MIG-a", 5 * GIB), ("MIG-b", 20 * GIB)]


def test_gpus_of_other_jobs_are_not_counted():
    """Slurm's cgroups and containers forbid them, and CUDA does not count them either."""
    first, second = gpus(2)
    assert [gpu.uuid for gpu in gpu_report.make(FakeNvml([first, pynvml.NVML_ERROR_NO_PERMISSION, second])).gpus] == [
        first.uuid, second.uuid,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (pynvml.NVML_COMPUTEMODE_DEFAULT, "default"),
        (pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, "exclusive"),
        (pynvml.NVML_COMPUTEMODE_PROHIBITED, "prohibited"),
    ],
)
def test_compute_modes(mode, name):
    assert gpu_report.make(FakeNvml([Gpu(mode=mode)])).gpus[0].mode == name


@pytest.mark.parametrize(
    ("code", "what", "advice"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "the NVIDIA driver's library libnvidia-ml.so.1 is missing", "--gpus all"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded", "modprobe"),
        (
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            "the NVIDIA driver's library and kernel module have diff",
            "reboot",
        ),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML: Unknown Error", ""),
    ],
)
def test_a_driver_that_does_not_work(code, what, advice):
    made = gpu_report.make(FakeNvml(fails=code))
    assert made.error.startswith(what)
    assert advice in made.advice
    assert made.gpus == ()


def test_a_lost_gpu_is_named():
    """CUDA does not start without it."""
    made = gpu_report.make(FakeNvml([*gpus(2), pynvml.NVML_ERROR_GPU_IS_LOST]))
    assert made == GpuReport("580.65.06", (13, 0), error="NVML: GPU 2: GPU is lost")
