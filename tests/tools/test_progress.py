"""Progress of a long command, with and without a terminal."""

import io

import pytest
from rich.console import Console

from launcher.tools.progress import progress


def lines(total, every):
    console = Console(file=io.StringIO(), width=80)
    with progress(console, "rows", total, every) as advance:
        for count in range(1, 5):
            advance(25, count * 1000)
    return console.file.getvalue().splitlines()


def test_a_short_command_prints_nothing():
    assert lines(100, 1000.0) == []


def test_a_line_has_the_number_and_the_fraction_done():
    assert [line.rpartition(", ")[0] for line in lines(100, 0.0)] == [
        "1,000 rows, 25%", "2,000 rows, 50%", "3,000 rows, 75%", "4,000 rows, 100%",
    ]  # fmt: skip


@pytest.mark.parametrize("total", [0])
def test_without_a_total_only_the_number_is_printed(total):
    assert lines(total, 0.0)[-1] == "4,000 rows"


def test_a_terminal_has_a_bar():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress(console, "rows", 100) as advance:
        advance(50, 7)
    assert "7 rows" in console.file.getvalue()
