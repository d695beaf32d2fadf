"""Imported first by the server that ranks are forked from: it dies with the launcher, and its ranks hear of that.

The server would else live as long as a rank does. See launcher.distributed.shutdown for the ranks' side.
"""

import signal

from launcher.distributed import parent_death
from launcher.distributed.signals import SIGNALS


def _leave_it_to_the_rank(number: int, frame: object) -> None:
    """A signal to the whole group is for the ranks, which take it themselves: but not one that is ignored here."""


parent_death.signal_at_its_death(signal.SIGKILL)
for _number in SIGNALS:
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, _leave_it_to_the_rank)
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher has them wait while this process starts
