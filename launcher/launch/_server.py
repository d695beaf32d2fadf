"""Imported first by the server that ranks are forked from: it dies with the launcher, and its ranks hear of that.

The server would else live as long as a rank does. See launcher.run.stop for the ranks' side.
"""

import signal

from launcher.run import parent
from launcher.run.stop import SIGNALS

parent.signal_at_its_death(signal.SIGKILL)
for _number in SIGNALS:
    signal.signal(_number, signal.SIG_IGN)  # a signal to the whole group is for the ranks, which take it themselves
