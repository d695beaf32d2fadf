"""`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME` runs one."""

import argparse
import contextlib
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

import benchmarks
from benchmarks import _table
from benchmarks.pairs import Benchmark, Comparison, Unavailable


def main(arguments: Sequence[str]) -> int:
    """Run the command of these arguments, and return its exit code."""
    name = next(iter(arguments), "--help")
    if name in ("-h", "--help", "list"):
        _list(Console(highlight=False))
        return 0
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
    benchmark.options(parser)
    return parser


def _run(name: str, benchmark: Benchmark, arguments: Sequence[str]) -> int:
    options = parser(name, benchmark).parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
            comparisons = benchmark.measure(options)
    except Unavailable as missing:
        print(f"{name}: not measured: {missing}", file=sys.stderr)
        return 3
    _print(name, comparisons, options.json)
    return 0


def _print(name: str, comparisons: Sequence[Comparison], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"benchmark": name, "comparisons": [_table.summary(one) for one in comparisons]}))
        return
    console = Console()
    for comparison in comparisons:
        _table.show(comparison, console)


def _list(console: Console) -> None:
    console.print("python -m benchmarks NAME --help: the options of a benchmark\n")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, benchmark in found().items():
        table.add_row(name, (benchmark.__doc__ or "").partition("\n")[0])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
