"""What happens to a process when the one that started it dies."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def signal_at_its_death(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies. Linux only; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
