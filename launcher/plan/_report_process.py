"""A child process that reports the devices of this machine as JSON on standard output."""

import json
import os
from dataclasses import asdict

from launcher.plan import gpu_report, nvml, torch_report


def main(topic: str) -> None:
    """Print a report. `topic`: gpus or torch. Output of libraries goes to standard error."""
    answer = os.dup(1)
    os.dup2(2, 1)
    report = gpu_report.make(nvml.installed()) if topic == "gpus" else torch_report.make()
    with open(answer, "w", encoding="utf-8") as out:  # noqa: PTH123
        json.dump(asdict(report), out)
