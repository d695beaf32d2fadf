"""Waiting for what blocks outside of Python, where no signal is heard."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_LOOK = 0.1
"""Seconds between two looks at whether to leave."""


class StoppedBeforeTraining(Exception):
    """Told to leave before training began."""


def patiently(call: Callable[[], T], told: Callable[[], bool], grace: float = 0.0) -> T:
    """What `call` returns or raises, called on a thread of its own while this one, which may be the main one, takes
    signals. Raises StoppedBeforeTraining where `told` to leave meanwhile; `grace`: seconds in which the call may
    still come to its end. A call that does not is left behind, to end with the process."""
    results, errors = list[T](), list[BaseException]()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="patience", daemon=True)
    thread.start()
    leave: float | None = None
    while thread.is_alive():
        thread.join(_LOOK)
        if leave is None and told():
            leave = time.monotonic() + grace
        if leave is not None and time.monotonic() >= leave and thread.is_alive():
            raise StoppedBeforeTraining
    if errors and (leave is not None or told()):
        raise StoppedBeforeTraining from errors[0]
    if errors:
        raise errors[0]
    return results[0]
