"""Garbage collection of a process that starts: the thousands of modules and classes of its imports are no garbage.

Searching them takes a fifth of the time of the imports, again and again.
"""

import gc

_SELDOM = 50_000
"""Objects after which a command's first generation is searched; Python's default is 700."""


def seldom() -> None:
    """Collect seldom in this process: most of what a command creates is imported."""
    gc.set_threshold(_SELDOM)


def pause() -> None:
    """Collect nothing until `resume`, here and in forked processes."""
    gc.disable()


def resume() -> None:
    """Collect again after `pause`. What is there by now is never searched, as it would be in the middle of a step."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
