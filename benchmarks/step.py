"""One optimiser step by kind of operation: milliseconds of each, of this checkout and of an earlier one.

One rank on one thread of the CPU, without communication. `--before` names another checkout, which takes turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table

from benchmarks import _workplace, finetune, mlm
from benchmarks._training import REPOSITORY
from benchmarks.pairs import Comparison

MODELS = (*mlm.MODELS, "minilm")


class Profile(TypedDict):
    """`seconds`: of a step, without the profiler; `kinds`: milliseconds of a step by kind of operation."""

    seconds: float
    kinds: dict[str, float]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default="bert-mini")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="root of an earlier checkout to compare with")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="overrides of the recipe")


def measure(options: argparse.Namespace) -> Sequence[Comparison]:
    checkouts = {"before": options.before.resolve()} if options.before else {}
    checkouts["now"] = REPOSITORY
    with _workplace.temporary_folder("step") as folder:
        recipe, keys = _recipe(options.model, folder)
        taken: dict[str, list[Profile]] = {name: [] for name in checkouts}
        for _ in range(options.pairs):
            for name, root in checkouts.items():
                taken[name].append(_profile(root, recipe, folder, [keys, *options.keys]))
    _show(options.model, taken)
    return []


def _recipe(model: str, folder: Path) -> tuple[Path, str]:
    """Write the recipe of the benchmarks `mlm` and `finetune`. Returns its file and an override: the share of the
    global batch of one of its ranks."""
    from launcher.config import load

    fine_tunes = model == "minilm"
    parser = argparse.ArgumentParser()
    (finetune if fine_tunes else mlm).options(parser)
    chosen = parser.parse_args([] if fine_tunes else ["--model", model])
    work = finetune.work(chosen, folder) if fine_tunes else mlm.work(chosen)
    file = folder / "step.yaml"
    file.write_text(f"name: step\nseed: 17\nmodel: {work.model}\n{work.recipe}sinks: []\n", encoding="utf-8")
    batch = load.recipe(str(file), []).value.train.global_batch
    return file, f"train.global_batch={batch // work.ranks}"


def _profile(root: Path, recipe: Path, folder: Path, keys: Sequence[str]) -> Profile:
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    script = REPOSITORY / "benchmarks" / "_profiled_step.py"
    command = [sys.executable, str(script), str(recipe), *keys]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"the profile of {root} has ended with {ended.returncode}\n{ended.stderr}")
    profile: Profile = json.loads(ended.stdout.strip().splitlines()[-1])
    return profile


def _show(model: str, taken: Mapping[str, Sequence[Profile]]) -> None:
    """Print the medians of all profiles, the largest kinds first."""
    median = {
        name: {
            kind: statistics.median(one["kinds"].get(kind, 0.0) for one in profiles)
            for kind in {kind for one in profiles for kind in one["kinds"]}
        }
        for name, profiles in taken.items()
    }
    first = next(iter(median.values()))
    table = Table("milliseconds", box=None)
    for name in median:
        table.add_column(name, justify="right")
    for kind in sorted({kind for kinds in median.values() for kind in kinds}, key=lambda one: -first.get(one, 0.0)):
        table.add_row(kind, *(f"{kinds.get(kind, 0.0):,.1f}" for kinds in median.values()))
    table.add_row("sum", *(f"{sum(kinds.values()):,.1f}" for kinds in median.values()), end_section=True)
    seconds = {name: statistics.median(one["seconds"] for one in profiles) for name, profiles in taken.items()}
    table.add_row("a step, without the profiler", *(f"{1000 * value:,.1f}" for value in seconds.values()))
    console = Console(highlight=False)
    console.print(f"{model}: one rank, one thread, {len(next(iter(taken.values())))} profiles, medians")
    console.print(table)
