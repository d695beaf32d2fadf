"""A temporary folder to work in, and runs that are built in this process."""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from launcher.sinks import Record
    from launcher.train.training_run import Run

T = TypeVar("T")

CACHE = Path("~/.cache/launcher-benchmarks")
"""Cache of prepared data, so that they are prepared once."""


@contextlib.contextmanager
def temporary_folder(name: str, within: str | None = None, cache: bool = False) -> Iterator[Path]:
    """Make a folder the current one, and remove it at the end. `within`: its parent; None: that of temporary files.
    `cache`: prepared data are kept in the folder."""
    with tempfile.TemporaryDirectory(prefix=f"launcher-{name}-", dir=within) as made, contextlib.chdir(made):
        folder = Path(made).absolute()
        if cache:
            os.environ["LAUNCHER_CACHE"] = str(folder / "cache")
        os.environ.setdefault("LAUNCHER_CACHE", str(CACHE.expanduser()))
        yield folder


def built(recipe: str, overrides: Sequence[str] = (), workers: int = 0) -> "Run":
    """Return the run of a recipe on one rank, in this process. `recipe`: its text."""
    from launcher.build import build
    from launcher.config import load
    from launcher.distributed import process_group
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    file = Path("recipe.yaml")
    file.write_text(recipe, encoding="utf-8")
    loaded = load.recipe(str(file), ["strategy=single", *overrides])
    made = run_setup.create(run_setup.validate(loaded, load.cluster("local").value, 1))
    made.release()
    group = process_group.connect(process_group.RankInfo(), "cpu")
    return build(made, group, StopMonitor(), None, workers=workers)[0]


def step(run: "Run", number: int, max_tokens: int | None = None) -> "tuple[float, Record]":
    """Take one step on the samples of step `number`. Returns its seconds, without loading, and its record.
    `max_tokens`: of a micro-batch; None: as in the recipe."""
    import dataclasses

    from launcher.train import loop
    from launcher.train.step_sync import sync_step_info

    batches = run.batches.dataset
    batch = (batches if max_tokens is None else dataclasses.replace(batches, max_tokens=max_tokens))[number]
    begin = time.perf_counter()
    record = loop.step(run, batch, sync_step_info(run.process, batch), begin)
    return time.perf_counter() - begin, record


def counted(take: Callable[[int], T]) -> Callable[[], T]:
    """Return a function that calls `take` with 0, 1, 2 and so on."""
    calls = itertools.count()
    return lambda: take(next(calls))
