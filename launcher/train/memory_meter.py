"""How much memory a rank needs at its fullest, over what it had when counting began."""

from pathlib import Path

import psutil
import torch

_PROC = Path("/proc/self")


class Peak:
    """Counts from where it is made: what an accelerator allocates, or on a CPU the resident set of this process."""

    def __init__(self, device: torch.device):
        self._device = device
        self._before = 0
        if device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats()
            self._before = torch.accelerator.memory_allocated()
        else:
            self._before = psutil.Process().memory_info().rss
            if (_PROC / "clear_refs").exists():
                (_PROC / "clear_refs").write_text("5")  # sets the high-water mark to where it is (Linux)

    def bytes(self) -> int:
        """The most since then, less what was there."""
        if self._device.type != "cpu":
            return int(torch.accelerator.max_memory_allocated()) - self._before
        return _high_water() - self._before


def _high_water() -> int:
    status = _PROC / "status"
    if not status.exists():
        return int(psutil.Process().memory_info().rss)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
