"""Measurement of the peak memory of a rank."""

from pathlib import Path

import psutil
import torch

_PROC = Path("/proc/self")


class Peak:
    """Peak memory since the creation of this object: allocated on an accelerator, or the resident set on a CPU."""

    def __init__(self, device: torch.device):
        self._device = device
        self._before = 0
        self.restart()
        if device.type != "cpu":
            self._before = torch.accelerator.memory_allocated()
        else:
            self._before = psutil.Process().memory_info().rss

    def restart(self) -> None:
        """Forget the peak until now. What was in use at the creation of this object still does not count."""
        if self._device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats()
        elif (_PROC / "clear_refs").exists():
            (_PROC / "clear_refs").write_text("5")  # resets the high-water mark (Linux)

    def bytes(self) -> int:
        """Return the peak since the creation of this object or the last restart, minus the use at its creation."""
        if self._device.type != "cpu":
            return int(torch.accelerator.max_memory_allocated()) - self._before
        return _high_water() - self._before


def _high_water() -> int:
    status = _PROC / "status"
    if not status.exists():
        return int(psutil.Process().memory_info().rss)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
