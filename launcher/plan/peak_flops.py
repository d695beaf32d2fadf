"""Published peak rates of devices, from which the model FLOPs utilisation is calculated.

The figures are dense: where a data sheet gives a rate with sparsity, they are its half. Sources are the vendors' data
sheets: NVIDIA V100, T4, A100, A10, L4, L40S, H100, H200 and HGX B200, and AMD Instinct MI300X.
"""

import re

_TERA = 1e12
_HOPPER = {"bf16": 989.5, "fp16": 989.5, "tf32": 494.5, "fp32": 67.0}
_HOPPER_NVL = {"bf16": 835.5, "fp16": 835.5, "tf32": 417.5, "fp32": 60.0}
_PEAKS: dict[str, dict[str, float]] = {
    r"V100-SXM[23]": {"fp16": 125.0, "fp32": 15.7},
    r"V100-PCIE": {"fp16": 112.0, "fp32": 14.0},
    r"V100S-PCIE": {"fp16": 130.0, "fp32": 16.4},
    r"T4": {"fp16": 65.0, "fp32": 8.1},
    r"A100[- ](SXM4?|PCIE|PG509)-[48]0GB|A100 80GB PCIe": {"bf16": 312.0, "fp16": 312.0, "tf32": 156.0, "fp32": 19.5},
    r"A10": {"bf16": 125.0, "fp16": 125.0, "tf32": 62.5, "fp32": 31.2},
    r"L4": {"bf16": 121.0, "fp16": 121.0, "tf32": 60.0, "fp32": 30.3},
    r"L40S": {"bf16": 362.05, "fp16": 362.05, "tf32": 183.0, "fp32": 91.6},
    r"H100 80GB HBM3|H100 SXM5?": _HOPPER,
    r"H100 PCIe": {"bf16": 756.5, "fp16": 756.5, "tf32": 378.0, "fp32": 51.0},
    r"H100 NVL": _HOPPER_NVL,
    r"H200": _HOPPER,
    r"H200 NVL": _HOPPER_NVL,
    r"B200": {"bf16": 2250.0, "fp16": 2250.0, "tf32": 1125.0, "fp32": 75.0},
    r"MI300X": {"bf16": 1307.4, "fp16": 1307.4, "tf32": 653.7, "fp32": 163.4},
}
"""TFLOP/s by pattern of the name, without the vendor and the memory, and by precision."""
_VENDOR = r"(?:NVIDIA |Tesla |AMD |Instinct )*"
_MEMORY = r"(?:-?[0-9]+GB(?:-LS)?)?"


def peak_flops(name: str, precision: str) -> float | None:
    """Return the published peak of a device in dense FLOP/s; None: not known.

    `name`: as the driver reports it, such as `NVIDIA H100 PCIe`. `precision`: bf16, fp16, tf32 or fp32. A MIG slice has
    a part of its GPU's peak, which no data sheet gives.
    """
    for pattern, peaks in _PEAKS.items():
        if re.fullmatch(f"{_VENDOR}(?:{pattern}){_MEMORY}", name.strip()):
            tera = peaks.get(precision)
            return None if tera is None else tera * _TERA
    return None
