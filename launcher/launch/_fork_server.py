"""Set-up of the server that ranks are forked from, which imports this module first: the server dies with the launcher,
and leaves signals to its ranks.

Without it the server would live as long as a rank does. See launcher.distributed.stop_requests for the ranks' side.
"""

import signal

from launcher.distributed.signals import SIGNALS, signal_on_parent_death


def _leave_to_ranks(number: int, frame: object) -> None:
    """Do nothing at a signal, which the ranks get and handle too. SIG_IGN is not used, since the ranks would inherit
    it."""


signal_on_parent_death(signal.SIGKILL)
for _number in SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, _leave_to_ranks)
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher blocks them while this process starts
