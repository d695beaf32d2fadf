"""Text that is not the launcher's own is printed as it is, also where it looks like rich's markup."""

import pytest
from rich.console import Console

from launcher.tools import parity, seeds, tables
from launcher.tools.export import export_benchmark

TEXT = "no [red]kernel[/] for [/x] in layers[0]"


@pytest.fixture
def printed():
    """What a function prints to the wide console that is its last argument."""

    def call(function, *arguments):
        console = Console(width=400)
        with console.capture() as text:
            function(*arguments, console)
        return text.get()

    return call


def test_a_layout_and_why_it_fails(printed):
    text = printed(parity.show, [parity.Row("own[bold]", 2, wrong=TEXT)], "fp32")
    assert TEXT in text and "own[bold]" in text


def test_metrics_of_an_evaluation(printed):
    values = {"eval/top[bold]": 0.5, "eval/top[bold]/[/cat]": 0.25}
    text = printed(lambda console: tables.print_metrics(values, {"floor[red]": 0.1}, console))
    assert text.count("top[bold]") == 2 and "[/cat]" in text and "floor[red]" in text


def test_metrics_of_seeds(printed, tmp_path):
    metric = {"mean": 1.0, "std": 0.0, "values": [1.0]}
    assert "top[bold]" in printed(
        lambda console: seeds._show("seeds", {"metrics": {"top[bold]": metric}, "seeds": [1]}, tmp_path, console)
    )


def test_the_benchmark_of_an_export(printed):
    row = export_benchmark.MeasuredModel("int8[/x]", 2**20, metrics={"top[bold]": 0.5})
    text = printed(export_benchmark.show, [row], [TEXT])
    assert "int8[/x]" in text and "top[bold]" in text and TEXT in text
