"""Garbage collection of a process that starts. The thousands of modules and classes of its imports are no garbage, and
searching them again and again takes a fifth of the time of the imports.
"""

import atexit
import gc

_USUAL = gc.get_threshold()
_SELDOM = (50_000, 100, 100)


def seldom() -> None:
    """Collect seldom from now on, and not at the exit: most objects of a command, or of a rank that starts, stay."""
    gc.set_threshold(*_SELDOM)
    atexit.register(gc.freeze)


def pause() -> None:
    """Collect nothing, here and in forked processes, until `resume`."""
    gc.disable()


def resume() -> None:
    """Collect as usual again, without the objects that exist by now. Called after the imports and before a model is
    built, whose memory could otherwise never be released."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
    gc.enable()
