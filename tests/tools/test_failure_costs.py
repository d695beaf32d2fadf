import pytest

from launcher.storage.ledger import LedgerLine
from launcher.tools import failure_costs


def line(process, time, step=None, writer="rank", saves=0, **seconds):
    return LedgerLine(process=process, writer=writer, time=time, step=step, saves=saves, seconds=seconds)


def test_an_empty_ledger_shows_nothing():
    assert failure_costs.measure([]) == {}


def test_costs_are_means_over_all_processes():
    lines = [
        line("c", 10, writer="command", start=4, prepare=6),
        line("a", 20, start=5),
        line("a", 20, 0, start=5),
        line("a", 50, 40, saves=2, start=5, compute=10, data=8, communicate=2, save=6, evaluate=4),
        line("b", 70, 20, start=9, compile=2),  # its process began at 59, 9 seconds after the last sign of the other
        line("b", 100, 80, saves=3, start=9, compile=2, compute=30, save=1),
    ]
    costs = failure_costs.measure(lines)
    assert costs == pytest.approx(
        {"step": 50 / 100, "evaluate": 4 / 50, "save": 7 / 5, "start": 8, "detect": 9, "launch": 4 + 5}
    )


def test_too_few_steps_are_no_measurement():
    lines = [line("a", 0, 0), line("a", 5, 10, compute=5)]
    assert set(failure_costs.measure(lines)) == {"start"}
