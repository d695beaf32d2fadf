"""Every module of benchmarks/ is a benchmark, and the command finds it by its name."""

import pkgutil

import pytest

import benchmarks
from benchmarks import __main__ as command

SHARED = {"fetched", "pairs"}
"""Modules that benchmarks share. All others of this kind begin with an underscore."""


def test_every_module_is_a_benchmark() -> None:
    modules = {one.name for one in pkgutil.iter_modules(benchmarks.__path__) if not one.ispkg}
    public = {name for name in modules if not name.startswith("_")}
    assert set(command.found()) == public - SHARED
    assert {"mlm", "finetune", "prepare", "restart", "save", "loader", "start", "resume"} <= public


@pytest.mark.parametrize("name", command.found())
def test_a_benchmark_is_described_and_takes_the_common_options(name: str) -> None:
    benchmark = command.found()[name]
    summary, _, rest = (benchmark.__doc__ or "").partition("\n")
    assert summary.endswith("."), "the first line of the docstring is the description in the list"
    assert not rest or rest.startswith("\n")
    options = command.parser(name, benchmark).parse_args(["--pairs", "7", "--json", "--record"])
    assert (options.pairs, options.json, options.record.name) == (7, True, "history.jsonl")


def test_the_list_names_all_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(command.found()) <= {line.partition(" ")[0] for line in lines}
    assert max(map(len, lines)) <= 80


def test_an_unknown_name_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["mml"]) == 2
    assert capsys.readouterr().err.startswith("no benchmark mml (there are ")
    assert command.main(["loader", "--pairs", "0"]) == 2
