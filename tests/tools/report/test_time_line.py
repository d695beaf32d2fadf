"""The time line of a run: every second at its place."""

import numpy as np
import pytest

from launcher.storage.ledger import LedgerLine
from launcher.tools.report import time_line


def test_a_bin_has_the_shares_of_what_passed_in_it():
    spans = [{"start": 2.0}, {"compute": 3.0, "data": 1.0}, {"down": 2.0}]
    edges, shares = time_line.shares(spans, 4)
    assert edges.tolist() == [0, 2, 4, 6, 8]
    assert {purpose: share.tolist() for purpose, share in shares.items()} == {
        "start": [1, 0, 0, 0], "data": [0, 0.25, 0.25, 0], "compute": [0, 0.75, 0.75, 0], "down": [0, 0, 0, 1],
    }  # fmt: skip


@pytest.mark.parametrize("bins", [7, 260])
def test_no_second_is_lost_or_counted_twice(bins):
    draw = np.random.default_rng(0)
    names = ("start", "compute", "data", "save", "lost", "down")
    spans = [dict(zip(names, draw.exponential(1.0, 6), strict=True)) for _ in range(50)]
    edges, shares = time_line.shares(spans, bins)
    assert sum(shares.values()) == pytest.approx(np.ones(bins))
    for name in names:
        assert shares[name].sum() * edges[1] == pytest.approx(sum(span[name] for span in spans))


def test_a_process_that_goes_back_rolls_back_and_a_new_one_resumes():
    def line(process, time, step):
        return LedgerLine(process=process, writer="rank", time=time, step=step, seconds={"compute": 1.0})

    lines = [line("a", 101, 5), line("a", 102, 9), line("a", 103, 4), line("b", 110, 2)]
    assert time_line.roll_backs(lines) == [time_line.Mark("roll back", 3.0, "from step 9 to 4")]


@pytest.mark.parametrize(("seconds", "word"), [(90, "seconds"), (600, "minutes"), (9000, "hours"), (1e6, "days")])
def test_the_unit_suits_the_duration(seconds, word):
    assert time_line.unit(seconds)[0] == word
