import threading

import pytest

from launcher.distributed.interruptible_wait import StoppedBeforeTraining, patiently


def test_what_is_called_is_returned_or_raised():
    assert patiently(lambda: 3, lambda: False) == 3
    with pytest.raises(ValueError, match=r"^no$"):
        patiently(lambda: (_ for _ in ()).throw(ValueError("no")), lambda: False)


def test_what_waits_is_left_when_told():
    for_ever = threading.Event()
    with pytest.raises(StoppedBeforeTraining):
        patiently(for_ever.wait, lambda: True)
    for_ever.set()


def test_within_the_grace_the_call_may_end():
    told = threading.Event()

    def leave():
        told.set()
        return True

    assert patiently(lambda: told.wait(30), leave, grace=30)


def test_an_error_after_being_told_is_no_other():
    told = threading.Event()

    def lose():
        told.wait(30)
        raise RuntimeError("connection closed by peer")

    def leave():
        told.set()
        return True

    with pytest.raises(StoppedBeforeTraining):
        patiently(lose, leave, grace=30)


def test_neither_is_one_that_comes_at_once():
    def lost():
        raise RuntimeError("connection closed by peer")

    for _ in range(100):
        with pytest.raises(StoppedBeforeTraining):
            patiently(lost, lambda: True)
