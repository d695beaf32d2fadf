"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME` runs one.

`python -m benchmarks compare [FILE]` compares the latest two records of each benchmark and machine in a history. Exit
codes: 1: a ratio has become worse; 2: a mistake in the command; 3: the machine lacks what a benchmark needs.
"""

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks import _history, _table
from benchmarks.pairs import Benchmark, Comparison, Unavailable
from launcher.config.format import plural


def main(arguments: Sequence[str]) -> int:
    """Run the command of these arguments, and return its exit code."""
    name = next(iter(arguments), "--help")
    if name in ("-h", "--help", "list"):
        _list(Console(highlight=False))
        return 0
    if name == "compare":
        return _compare(arguments[1:])
    known = found()
    if name not in known:
        print(f"no benchmark {name} (there are {', '.join(known)})", file=sys.stderr)
        return 2
    return _run(name, known[name], arguments[1:])


def found() -> dict[str, Benchmark]:
    """Return the benchmarks by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names if not name.startswith("_")}
    return {name: module for name, module in modules.items() if isinstance(module, Benchmark)}


def parser(name: str, benchmark: Benchmark) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="measurements of each side (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the comparisons as JSON on standard output")
    parser.add_argument(
        "--record", type=Path, nargs="?", const=_history.FILE, metavar="FILE",
        help=f"append the medians to a history (default: benchmarks/{_history.FILE.name})",
    )  # fmt: skip
    benchmark.options(parser)
    return parser


def _run(name: str, benchmark: Benchmark, arguments: Sequence[str]) -> int:
    options = parser(name, benchmark).parse_args(arguments)
    if options.pairs < 1:
        print("--pairs: at least 1", file=sys.stderr)
        return 2
    history = options.record and options.record.absolute()
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # for commands that a benchmark starts
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a checkout is compiled once, as installed packages are
    try:
        with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
            comparisons = benchmark.measure(options)
    except Unavailable as missing:
        print(f"{name}: not measured: {missing}", file=sys.stderr)
        return 3
    _print(name, comparisons, options.json)
    if history:
        _history.append(history, [_history.record(name, one) for one in comparisons])
    return 0


def _compare(arguments: Sequence[str]) -> int:
    """Compare records of a history, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description=f"Compare the latest two records of each benchmark and machine. Exit code 1: a ratio to a peer has "
        f"become worse by more than {_history.ALLOWED:.0%}.",
    )
    parser.add_argument("file", type=Path, nargs="?", default=_history.FILE, metavar="FILE")
    file = parser.parse_args(arguments).file
    try:
        pairs = list(_history.latest_pairs(_history.read(file)))
    except FileNotFoundError:
        print(f"{file}: no such file (python -m benchmarks NAME --record {file} makes it)", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    worse = [one for before, after in pairs for one in _history.regressions(before, after)]
    for one in worse:
        print(one.sentence())
    if not pairs:
        print(f"{file}: no benchmark has two records of one machine yet")
    elif not worse:
        print(f"no ratio of {plural(len(pairs), 'comparison')} has become worse by more than {_history.ALLOWED:.0%}")
    return int(bool(worse))


def _print(name: str, comparisons: Sequence[Comparison], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"benchmark": name, "comparisons": [_table.summary(one) for one in comparisons]}))
        return
    console = Console()
    for comparison in comparisons:
        _table.show(comparison, console)


def _list(console: Console) -> None:
    console.print("python -m benchmarks NAME --help: the options of a benchmark")
    console.print("python -m benchmarks compare: what has become slower since the record before\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, benchmark in found().items():
        table.add_row(name, (benchmark.__doc__ or "").partition("\n")[0])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
