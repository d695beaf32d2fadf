"""The decision about devices, on machines that are described by a fake NVML and a fake answer of torch."""

import pynvml
import pytest
import support
from support.fake_nvml import GIB, FakeMachine, FakeNvml, Gpu, gpus, mig

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import plan, topology
from launcher.plan.devices import decide
from launcher.plan.gpu_report import GpuReport
from launcher.plan.machine import TorchBuild
from launcher.plan.torch_report import TorchDevice, TorchReport

CPU_BUILD = TorchBuild("2.13.0+cpu")
ROCM = TorchBuild("2.13.0+rocm6.4", hip="6.4")
ON_CPU = "cluster.device=cpu trains on the CPU"


def world(machine, ranks=None, **profile):
    cluster = Cluster(**profile)
    return topology.world(cluster, ranks, topology.find(cluster, machine))


def problems(machine, ranks=None, **profile):
    return world(machine, ranks, **profile).problems()


# Which devices


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_all_gpus_with_the_smallest_memory(device):
    nvml = FakeNvml([*gpus(7), Gpu("NVIDIA A100-SXM4-40GB", "GPU-small", 24 * GIB)])
    found = world(FakeMachine(nvml), device=device)
    assert (found.device, found.per_node, found.memory) == ("cuda", 8, 24 * GIB)
    assert found.problems() == found.notes() == []
    assert found.devices.name == "NVIDIA A100-SXM4-40GB"


@pytest.mark.parametrize(
    ("value", "memory"),
    [("0,2", [40, 80]), ("2", [80]), ("GPU-00000002", [80]), ("GPU-00000002,GPU-00000000", [80, 40])],
)
def test_a_subset_has_its_own_memory(value, memory):
    nvml = FakeNvml(gpus(3))
    nvml.gpus[1].memory, nvml.gpus[2].memory = 16 * GIB, 80 * GIB
    found = world(FakeMachine(nvml, {"CUDA_VISIBLE_DEVICES": value}))
    assert [device.memory for device in found.own_devices] == [size * GIB for size in memory]
    assert found.memory == min(memory) * GIB


def test_an_entry_that_hides_others_is_noted():
    found = world(FakeMachine(FakeNvml(gpus(4)), {"CUDA_VISIBLE_DEVICES": "0,7,1"}))
    assert found.per_node == 1
    assert found.notes() == ["CUDA_VISIBLE_DEVICES=0,7,1: 7 is no GPU here: CUDA hides it and those after it"]


def test_indices_of_different_gpus_are_ambiguous_unless_the_order_is_set():
    nvml = FakeNvml([Gpu("NVIDIA T400", "GPU-a", 4 * GIB), Gpu(uuid="GPU-b")])
    found = world(FakeMachine(nvml, {"CUDA_VISIBLE_DEVICES": "1"}))
    (note,) = found.notes()
    assert note.startswith(
        "CUDA_VISIBLE_DEVICES=1 counts from the fastest GPU, and there are different ones here: NVID"
    )
    assert found.memory == 4 * GIB
    found = world(FakeMachine(nvml, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}))
    assert (found.notes(), found.memory) == ([], 40 * GIB)


def test_a_profile_for_the_cpu_queries_nothing():
    class Untouched(FakeMachine):
        def vendors(self):
            raise AssertionError

    assert world(Untouched(), device="cpu").device == "cpu"


def test_a_machine_without_accelerators_uses_the_cpu_without_a_note():
    found = world(FakeMachine(shown=frozenset(), build=CPU_BUILD))
    assert (found.device, found.per_node, found.notes(), found.problems()) == ("cpu", 1, [], [])


# MIG


def test_slices_are_the_devices_and_a_process_sees_one():
    machine = FakeMachine(FakeNvml([Gpu(slices=[mig("MIG-a", 5 * GIB), None, mig("MIG-b", 20 * GIB)])]))
    found = world(machine)
    assert (found.devices.count, found.per_node, found.memory) == (2, 1, 5 * GIB)
    assert found.problems() == []
    told = "--ranks: 2 ranks on MIG slices, and CUDA shows a process only one (one rank, or turn MIG off)"
    assert problems(machine, 2) == [told]


def test_a_chosen_slice_has_its_own_memory():
    nvml = FakeNvml([Gpu(slices=[mig("MIG-a", 5 * GIB), mig("MIG-b", 20 * GIB)])])
    found = world(FakeMachine(nvml, {"CUDA_VISIBLE_DEVICES": "MIG-b"}))
    assert (found.devices.count, found.memory, found.problems()) == (1, 20 * GIB, [])


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_mig_without_slices_is_a_mistake(device):
    (told,) = problems(FakeMachine(FakeNvml([Gpu(slices=[])])), device=device)
    what = (
        "MIG is on at NVIDIA A100-SXM4-40GB, and it has no slices: nothing can run on it (create slices with nvidia-smi"
    )
    assert told.startswith(f"--cluster local: device: {device}: {what}")
    assert told.endswith(f"or {ON_CPU})")


def test_slices_beside_whole_gpus_are_noted():
    found = world(FakeMachine(FakeNvml([*gpus(2), Gpu(uuid="GPU-m", slices=[mig("MIG-a", 5 * GIB)])])))
    assert (found.per_node, found.memory) == (2, 40 * GIB)
    assert found.notes()[0].startswith("MIG is on at 1 GPU, and slices are not used beside whole GPUs")


# Why a device cannot be used: a mistake if it is required, a warning for auto


OLD = FakeNvml(gpus(1), cuda=12040, driver="550.54")
BROKEN_NVML = FakeNvml(fails=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
UNUSABLE = [
    (FakeMachine(FakeNvml(gpus(1)), build=CPU_BUILD), "torch 2.13.0+cpu is built for the CPU (install a torch"),
    (FakeMachine(FakeNvml(gpus(1)), build=ROCM), "torch 2.13.0+rocm6.4 is built for ROCm"),
    (
        FakeMachine(OLD),
        "the NVIDIA driver 550.54 is too old: it supports CUDA 12.4, torch 2.13.0+cu130 needs 13.0 (upd",
    ),
    (FakeMachine(BROKEN_NVML), "the NVIDIA driver is not loaded (load it"),
    (FakeMachine(FakeNvml()), "the NVIDIA driver lists no GPU that this process may use (Slurm: request them with"),
    (FakeMachine(FakeNvml(gpus(2)), {"CUDA_VISIBLE_DEVICES": ""}), "CUDA_VISIBLE_DEVICES hides all GPUs (unset"),
    (
        FakeMachine(FakeNvml(gpus(2)), {"CUDA_VISIBLE_DEVICES": "5"}),
        "CUDA_VISIBLE_DEVICES=5 names no GPU of this machine",
    ),
    (FakeMachine(FakeNvml([Gpu(capability=(6, 0))])), "GPU 0 (NVIDIA A100-SXM4-40GB) has compute capability 6.0, and"),
    (FakeMachine(shown=frozenset({"hidden nvidia"})), "the container has no device file of them (start it with"),
    (FakeMachine(report=GpuReport(error="the driver did not answer", stuck=True)), "the driver did not answer"),
    (FakeMachine(shown=frozenset({"amd"}), build=CPU_BUILD), "AMD GPUs, and torch 2.13.0+cpu is built for the CPU"),
    (
        FakeMachine(shown=frozenset({"amd"}), build=ROCM, answer=TorchReport(error="no permission for /dev/kfd")),
        "torch finds no AMD GPU that it can use: no permission for /dev/kfd",
    ),
]


@pytest.mark.parametrize(("machine", "what"), UNUSABLE)
def test_a_required_gpu_that_cannot_be_used_is_a_mistake_with_the_reason(machine, what):
    (told,) = problems(machine, device="cuda", devices_per_node=2)
    assert told.startswith("--cluster local: device: cuda: ")
    assert what in told
    assert told.endswith(f"{ON_CPU})")


@pytest.mark.parametrize(("machine", "what"), UNUSABLE)
def test_auto_does_not_fall_to_the_cpu_in_silence(machine, what):
    found = world(machine)
    assert (found.device, found.problems()) == ("cpu", [])
    (note,) = found.notes()
    assert note.startswith("USES THE CPU: ")
    assert what in note


def test_a_driver_without_nvml_is_queried_by_torch():
    """Such as in a container that has CUDA's library alone."""
    answer = TorchReport("cuda", (TorchDevice("NVIDIA L4", 22 * GIB),) * 2)
    nvml = FakeNvml(fails=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    found = world(FakeMachine(nvml, answer=answer))
    assert (found.device, found.per_node, found.memory, found.notes()) == ("cuda", 2, 22 * GIB, [])


def test_an_old_driver_may_have_a_library_that_makes_up_for_it():
    """NVIDIA's cuda-compat: torch decides."""
    answer = TorchReport("cuda", (TorchDevice("NVIDIA A100-SXM4-40GB", 39 * GIB),))
    found = world(FakeMachine(OLD, answer=answer))
    assert (found.device, found.per_node, found.notes()) == ("cuda", 1, [])


def test_torch_is_not_queried_if_the_driver_is_stuck():
    class Stuck(FakeMachine):
        def torch(self):
            raise AssertionError

    assert decide("auto", Stuck(report=GpuReport(error="no answer", stuck=True))).kind == "cpu"


@pytest.mark.parametrize(
    ("vendor", "device", "build", "kind"),
    [
        ("amd", "cuda", ROCM, "cuda"),
        ("intel", "xpu", TorchBuild("2.13.0+xpu", xpu="20250101"), "xpu"),
    ],
)
def test_other_vendors_are_queried_by_torch(vendor, device, build, kind):
    answer = TorchReport(kind, (TorchDevice("a", 64 * GIB), TorchDevice("b", 48 * GIB)))
    machine = FakeMachine(shown=frozenset({vendor}), build=build, answer=answer)
    for requested in ("auto", device):
        found = world(machine, device=requested)
        assert (found.device, found.per_node, found.memory, found.problems()) == (kind, 2, 48 * GIB, [])


def test_an_apple_gpu_is_not_used_because_it_has_no_float64():
    machine = FakeMachine(shown=frozenset({"apple"}), build=TorchBuild("2.13.0"))
    assert (world(machine).device, world(machine).per_node) == ("cpu", 1)
    assert "an Apple GPU has no float64" in world(machine).notes()[0]
    assert "an Apple GPU has no float64" in problems(machine, device="mps")[0]


def test_devices_that_nobody_expects_to_be_used_are_no_reason_for_a_warning():
    """The GPU of a laptop's processor, and those of the host of a container with a torch for the CPU."""
    assert world(FakeMachine(shown=frozenset({"hidden nvidia"}), build=CPU_BUILD)).notes() == []
    machine = FakeMachine(shown=frozenset({"intel"}), build=CPU_BUILD)
    assert world(machine).notes() == []
    assert "built for XPU" in problems(machine, device="xpu")[0]


# What disturbs ranks on their devices


def test_more_ranks_than_devices():
    assert problems(FakeMachine(FakeNvml(gpus(2))), 3) == [
        "--ranks: 3 ranks for 2 GPUs (one each at the most, or --cluster with device: cpu)"
    ]


def test_of_eight_gpus_two_are_taken():
    nvml = FakeNvml(gpus(8))
    for index in (3, 6):
        nvml.gpus[index].used, nvml.gpus[index].processes = 36 * GIB, {4242: 35 * GIB}
    first, second = world(FakeMachine(nvml)).notes()
    assert first.startswith("GPU 3 (NVIDIA A100-SXM4-40GB): 36.0 GiB of 40.0 GiB are in use by process 4242 (35.0 GiB)")
    assert second.startswith("GPU 6 ")
    assert world(FakeMachine(nvml), 3).notes() == []  # ranks use the first three
    assert world(FakeMachine(nvml, own=frozenset({4242}))).notes() == []


def test_an_exclusive_gpu_with_a_process_is_a_mistake():
    nvml = FakeNvml([Gpu(mode=pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS, processes={7: GIB})])
    (told,) = problems(FakeMachine(nvml))
    assert told.startswith("GPU 0 (NVIDIA A100-SXM4-40GB) is in exclusive compute mode, and process 7 has it (wait")
    assert problems(FakeMachine(nvml, own=frozenset({7}))) == []
    nvml.gpus[0].mode = pynvml.NVML_COMPUTEMODE_PROHIBITED
    assert "is in compute mode prohibited" in problems(FakeMachine(nvml))[0]


def test_a_gpu_that_is_too_old_for_the_cuda_of_torch():
    nvml = FakeNvml([Gpu("Tesla V100-SXM2-16GB", "GPU-v", capability=(7, 0)), *gpus(1)])
    (told,) = problems(FakeMachine(nvml))
    assert "has compute capability 7.0, and CUDA 13 of torch 2.13.0+cu130 needs 7.5 (install a torch" in told
    assert told.endswith("or leave it out of CUDA_VISIBLE_DEVICES)")
    assert problems(FakeMachine(nvml, {"CUDA_VISIBLE_DEVICES": "GPU-0000"})) == []
    assert problems(FakeMachine(nvml, build=TorchBuild("2.13.0+cu126", cuda="12.6"))) == []


def test_bf16_needs_a_gpu_that_has_it():
    found = world(FakeMachine(FakeNvml([Gpu("Tesla T4", capability=(7, 5))])))
    assert found.precision_problem("bf16") == "Tesla T4 has no bf16 (take fp16, or fp32)"
    assert found.precision_problem("fp16") is None
    assert world(FakeMachine(FakeNvml(gpus(1)))).precision_problem("bf16") is None


def test_ranks_that_each_see_their_own_device_are_not_refused():
    """As under srun --gpus-per-task: the worker has found that their devices differ."""
    cluster = Cluster()
    devices = topology.find(cluster, FakeMachine(FakeNvml(gpus(1))))
    assert topology.world(cluster, 4, devices).problems() != []
    assert topology.world(cluster, 4, devices.of_each_rank(4)).problems() == []


# In the plan


def made(machine, **train):
    recipe = Recipe.model_validate(support.mlm(**{f"train__{key}": value for key, value in train.items()}))
    cluster = Cluster()
    return plan.make(recipe, cluster, file="recipe.yaml", devices=topology.find(cluster, machine))


def test_a_plan_shows_what_disturbs_its_devices(workspace):
    """The only plan here that is made to its end, which imports torch in a child."""
    nvml = FakeNvml(gpus(1))
    nvml.gpus[0].used = 39 * GIB
    found = made(FakeMachine(nvml))
    assert (found.device, found.memory_per_device) == ("cuda", 40 * GIB)
    assert [note.partition(" (a rank")[0] for note in found.notes] == [
        "GPU 0 (NVIDIA A100-SXM4-40GB): 39.0 GiB of 40.0 GiB are in use by processes that are not visible here"
    ]


def test_all_mistakes_of_devices_are_reported_with_the_others(workspace):
    nvml = FakeNvml([Gpu("Tesla T4", capability=(7, 5), mode=pynvml.NVML_COMPUTEMODE_PROHIBITED)])
    with pytest.raises(UserError) as error:
        made(FakeMachine(nvml), precision="bf16")
    first, second = map(str, error.value.problems)
    assert first.startswith("GPU 0 (Tesla T4) is in compute mode prohibited")
    assert second == "train.precision: Tesla T4 has no bf16 (take fp16, or fp32)"


def test_commands_without_a_plan_log_why_the_cpu_is_used(monkeypatch, caplog):
    monkeypatch.setattr(topology, "ThisMachine", lambda: FakeMachine(BROKEN_NVML))
    topology.log_notes(Cluster())
    (record,) = caplog.records
    assert record.getMessage().startswith("USES THE CPU: the NVIDIA driver is not loaded")
