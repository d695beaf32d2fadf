import pytest

from launcher.plan.peak_flops import peak_flops


@pytest.mark.parametrize(
    ("name", "half", "tf32", "fp32"),
    [
        ("NVIDIA A100-SXM4-40GB", 312, 156, 19.5),
        ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
        ("A100-SXM-80GB", 312, 156, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 156, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 156, 19.5),
        ("NVIDIA A10", 125, 62.5, 31.2),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA L40S", 362.05, 183, 91.6),
        ("NVIDIA H100 80GB HBM3", 989.5, 494.5, 67),
        ("NVIDIA H100 PCIe", 756.5, 378, 51),
        ("NVIDIA H100 NVL", 835.5, 417.5, 60),
        ("NVIDIA H200", 989.5, 494.5, 67),
        ("NVIDIA H200 NVL", 835.5, 417.5, 60),
        ("NVIDIA B200", 2250, 1125, 75),
        ("AMD Instinct MI300X", 1307.4, 653.7, 163.4),
    ],
)
def test_dense_peaks_are_those_of_the_data_sheets(name, half, tf32, fp32):
    wanted = {"bf16": half, "fp16": half, "tf32": tf32, "fp32": fp32}
    assert {precision: peak_flops(name, precision) for precision in wanted} == {
        precision: pytest.approx(tera * 1e12) for precision, tera in wanted.items()
    }


@pytest.mark.parametrize(
    ("name", "fp16", "fp32"),
    [
        ("Tesla V100-SXM2-16GB", 125, 15.7),
        ("Tesla V100-SXM2-32GB-LS", 125, 15.7),
        ("Tesla V100-PCIE-32GB", 112, 14),
        ("Tesla V100S-PCIE-32GB", 130, 16.4),
        ("Tesla T4", 65, 8.1),
    ],
)
def test_devices_without_bf16_have_no_peak_for_it(name, fp16, fp32):
    assert peak_flops(name, "fp16") == pytest.approx(fp16 * 1e12)
    assert peak_flops(name, "fp32") == pytest.approx(fp32 * 1e12)
    assert peak_flops(name, "bf16") is None
    assert peak_flops(name, "tf32") is None


@pytest.mark.parametrize(
    "name",
    [
        "", "cpu", "NVIDIA A10G", "NVIDIA A100X", "NVIDIA A100-SXM-64GB", "NVIDIA H20", "NVIDIA L40",
        "NVIDIA GH200 480GB", "NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "AMD Instinct MI300A",
    ],
)  # fmt: skip
def test_no_figure_is_guessed_for_a_similar_name(name):
    assert peak_flops(name, "bf16") is None


def test_no_figure_is_guessed_for_another_precision():
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp64") is None
