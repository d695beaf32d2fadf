"""Set-up of the server from which ranks are forked; the server imports this module first.

After it, the server dies with the launcher, and leaves signals to the ranks. Otherwise it would live as long as a rank.
For the ranks' side see launcher.distributed.stop_requests.
"""

import signal

from launcher.distributed import garbage_collection
from launcher.distributed.signals import SIGNALS, signal_on_parent_death
from launcher.launch import numa_binding


def _leave_to_ranks(number: int, frame: object) -> None:
    """Do nothing at a signal, because the ranks receive and handle it too. The handler is not SIG_IGN, because the
    ranks would inherit it."""


garbage_collection.pause()  # the ranks resume it
numa_binding.silence()
signal_on_parent_death(signal.SIGKILL)
for _number in SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, _leave_to_ranks)
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher had blocked them while it started this process
