"""The table of `launcher doctor`."""

import io

import pytest
from rich.console import Console

from launcher.health.finding import Finding, worst
from launcher.tools.doctor import report

FOUND = [
    Finding(
        "disks", "cache", "failure", "/x: the disk is full: 0 B of 1.0 GiB free " + "and more " * 12, "make room", "n1"
    ),
    Finding("software", "packages", "ok", "torch 2.13", "", "n1"),
    Finding("software", "packages", "ok", "torch 2.13", "", "n2"),
    Finding("network", "nodes", "warning", "[red]n2[/]: slow\x1b[31m", "look", "n2"),
]


def printed(findings, width):
    out = io.StringIO()
    report.show(findings, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_is_grouped(width):
    text = printed(FOUND, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert [line for line in text.splitlines() if line.rstrip() in ("software", "disks", "network")] == [
        "software", "disks", "network"
    ]  # fmt: skip
    assert "FAIL" in text and "-> make room" in text
    assert "torch 2.13 (and 1 other host)" in text
    assert text.splitlines()[-1] == "4 checks on 2 hosts: 1 failed, 1 warning."


def test_texts_are_neither_markup_nor_control_characters():
    text = printed(FOUND, 120)
    assert "[red]n2[/]: slow\\x1b[31m" in text and "\x1b" not in text


def test_progress_is_a_line_for_each_step_where_there_is_no_terminal():
    out = io.StringIO()
    found = report.collected(["disks", FOUND[0], "disks", "the network"], Console(file=out, width=80))
    assert (found, out.getvalue()) == (FOUND[:1], "looking at disks\nlooking at the network\n")


def test_the_level_of_all_is_the_worst():
    assert [worst(FOUND), worst(FOUND[1:]), worst(FOUND[1:3]), worst([])] == ["failure", "warning", "ok", "ok"]
