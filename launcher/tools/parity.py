"""`launcher parity`: compare a few steps of each layout with those of a single process.

A layout is a strategy with its options, on a number of ranks. It affects only speed and memory. Losses, gradient norms
and digests of the data must equal those of one process.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config import kinds, load
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.distributed import output_streams
from launcher.launch import execute, launch_spec
from launcher.plan import layout, model_requirements, model_spec, plan, topology
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir
from launcher.tools import local_start

TOLERANCE = {
    "fp64": (1e-10, 1e-8), "fp32": (1e-5, 1e-4), "tf32": (2**-11, 2**-9), "fp16": (2**-11, 2**-9),
    "bf16": (2**-8, 2**-6),
}  # fmt: skip
"""Allowed relative differences at the first step, and at any step, by precision.

Layouts add up the same numbers in another order, so that they differ by rounding. fp16 and bf16 keep 11 and 8 bits of
an activation, and different padding already changes the last one; TF32 keeps 11 bits of the factors of a product. One
unit of the last bit is allowed at the first step, and four at any step.
"""


@dataclass(frozen=True)
class Row:
    """The result of a layout.

    `losses`, `grad_norms`: by step. `first`, `largest`: maximum relative difference of both from the single process, at
    the first step and at any step. `data`: whether the digests of the data are equal. `memory`: peak of a rank, in
    bytes; `estimate`: the plan's estimate of it. `wrong`: why the layout failed.
    """

    layout: str
    ranks: int
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()
    first: float = math.nan
    largest: float = math.nan
    data: bool = False
    tokens_per_second: float = 0.0
    memory: int = 0
    estimate: int = 0
    ok: bool = False
    wrong: str = ""


def load_recipe(file: str, overrides: Sequence[str]) -> Loaded[Recipe]:
    """Return the recipe with the settings of parity, for a single process. The learning rate is constant, because the
    first updates of a warmup are too small to change a loss. Raises UserError."""
    ours = [f"name=parity-{os.getpid()}", "strategy=single", "sinks=[]", "schedule=constant"]
    return load.recipe(file, ["train.strict_contract=true", *overrides, *ours])


def parity(
    loaded: Loaded[Recipe], strategies: str | None, ranks: Sequence[int], steps: int, cluster: Cluster
) -> Iterator[Row]:
    """Yield the result of the single process, then of each layout on each number of ranks.

    `strategies`: layouts in the form of `label`, separated by commas; None: all. Raises UserError before anything
    starts.
    """
    problems = local_start.warm_up(loaded.value, cluster, max(ranks, default=1))
    prepared = run_setup.validate(loaded, cluster, 1, problems)
    topology.log_notes(cluster)
    todo = [(recipe, count) for count in ranks for recipe in _layouts(prepared, loaded, strategies, count)]
    if not todo:
        raise UserError(f"--strategies: no layout of {strategies} runs on {', '.join(map(str, ranks))} ranks")
    with tempfile.TemporaryDirectory(prefix="launcher-parity-") as folder:
        runs = _ShortRuns(prepared, loaded.file, cluster, steps, Path(folder))
        single = runs.measure(prepared.recipe, 1)
        yield runs.compare(prepared.recipe, 1, single, single)
        for recipe, count in todo:
            try:
                yield runs.compare(recipe, count, runs.measure(recipe, count), single)
            except UserError as error:
                yield Row(label(recipe), count, wrong=" ".join(str(error).split()))


def label(recipe: Recipe) -> str:
    """Return the layout of a recipe in the form of --strategies: kind:key=value."""
    keys = recipe.strategy.model_dump(mode="json", exclude_unset=True)
    parts = [f"{key}={value}" for key, value in keys.items() if key != "kind"]
    parts += ["train.compile=true"] if recipe.train.compile else []
    if recipe.train.checkpointed_every:
        parts.append(f"train.activation_checkpointing={recipe.train.activation_checkpointing}")
    return ":".join([recipe.strategy.kind, *parts])


def rank_counts(text: str) -> list[int]:
    """Return the numbers in a text such as `2,4`. Raises UserError for other texts."""
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise UserError(f"--ranks {text}: numbers with commas between them, such as 2,4")
    return [int(word) for word in words]


def report(
    loaded: Loaded[Recipe], strategies: str | None, ranks: Sequence[int], steps: int, cluster: Cluster, json: bool
) -> int:
    """Run all layouts and print the table, or JSON. Returns the exit code: 1 if a layout differs, else 0."""
    progress, rows = Console(stderr=True), list[Row]()
    with progress.status("one process"):
        for row in parity(loaded, strategies, ranks, steps, cluster):
            rows.append(row)
            result = "same" if row.ok else row.wrong or "differs"
            progress.print(f"{row.layout} on {row.ranks}: {result}", highlight=False, markup=False, soft_wrap=True)
    if json:
        print(output_streams.as_json(as_json(rows)))
    else:
        show(rows, loaded.value.train.precision, Console())
    return 0 if all(row.ok for row in rows) else 1


def show(rows: Sequence[Row], precision: str, console: Console) -> None:
    """Print the results as a table."""
    first, later = TOLERANCE[precision]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layout", overflow="fold")
    for name in ("ranks", "loss", "norm", "first", "all", "tokens/s", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        verdict = "[green]same[/]" if row.ok else f"[red]{escape(row.wrong or 'differs')}[/]"
        cells = [""] * 6
        if row.losses:
            cells = [f"{row.losses[-1]:.4f}", f"{row.grad_norms[-1]:.4f}", f"{row.first:.0e}", f"{row.largest:.0e}"]
            cells += [f"{row.tokens_per_second:,.0f}", f"{row.memory / 2**20:,.0f}"]
        table.add_row(escape(row.layout), str(row.ranks), *cells, verdict)
    console.print(table)
    console.print(
        f"loss and gradient norm of the last step; in {precision}, how far both are from one process, relatively: at "
        f"the first step (allowed: {first:.0e}) and at all (allowed: {later:.0e}); MiB: the most a rank needed",
        highlight=False,
    )


def as_json(rows: Sequence[Row]) -> str:
    """Return the results as a JSON list of objects. NaN becomes null."""
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(row).items()} for row in rows]
    return json.dumps(plain, indent=1)


@dataclass(frozen=True)
class _ShortRuns:
    """Runs of `steps` steps, each in a separate folder below `folder`."""

    prepared: run_setup.PreparedRun
    file: str
    cluster: Cluster
    steps: int
    folder: Path

    def measure(self, recipe: Recipe, ranks: int) -> JsonObject:
        """Run a layout, and return the records of rank 0 and the peak memory. Raises UserError."""
        folder = RunDir(self.folder / str(len(list(self.folder.iterdir()))))
        planned = self._plan(recipe, ranks).model_copy(update={"folder": str(folder.path)})
        run_setup.create(
            replace(self.prepared, recipe=recipe, plan=planned, folder=folder, resume=None, start=None)
        ).release()
        outcome = execute.execute(launch_spec.measure(planned, self.cluster.env, self.steps))
        if outcome.result.get("stopped"):
            raise KeyboardInterrupt
        if outcome.code:
            raise UserError(outcome.problems or f"{label(recipe)}: the ranks failed (see above)")
        return dict(outcome.result)

    def compare(self, recipe: Recipe, ranks: int, measured: JsonObject, single: JsonObject) -> Row:
        """Return the result of a layout, compared with the single process."""
        records = measured["records"]
        pairs = list(zip(records, single["records"], strict=True))
        differences = [max(_difference(a[key], b[key]) for key in ("loss", "grad_norm")) for a, b in pairs]
        largest = max(differences)
        same = all(a["data"] == b["data"] for a, b in pairs)
        first, later = TOLERANCE[recipe.train.precision]
        return Row(
            layout=label(recipe),
            ranks=ranks,
            losses=tuple(record["loss"] for record in records),
            grad_norms=tuple(record["grad_norm"] for record in records),
            first=differences[0],
            largest=largest,
            data=same,
            tokens_per_second=_speed(records),
            memory=measured["memory"],
            estimate=sum(self._plan(recipe, ranks).memory.values()),
            ok=same and differences[0] <= first and largest <= later,
            wrong="" if same and math.isfinite(largest) else "not finite" if same else "other data",
        )

    def _plan(self, recipe: Recipe, ranks: int) -> plan.Plan:
        facts, folder = self.prepared.facts, self.prepared.prepared
        return plan.make(recipe, self.cluster, file=self.file, ranks=ranks, facts=facts, prepared=folder)


def _layouts(
    prepared: run_setup.PreparedRun, loaded: Loaded[Recipe], strategies: str | None, ranks: int
) -> list[Recipe]:
    """Return the named layouts; if none are named, all, and also the first one compiled and with activation
    checkpointing."""
    recipe = prepared.recipe
    shape = model_spec.count(recipe, model_requirements.of(recipe, prepared.facts))
    every = list(layout.layouts(recipe, shape, ranks))
    if strategies is not None:
        words = [word.strip() for word in strategies.split(",")]
        return [named for word in words for named in _named(word, loaded, every, ranks)]
    changes: list[dict[str, object]] = [{"activation_checkpointing": "layers"}, {"compile": True}]
    return every + [_with_train(other, change) for other in every[:1] for change in changes]


def _named(word: str, loaded: Loaded[Recipe], every: list[Recipe], ranks: int) -> list[Recipe]:
    """Return the layouts that a word names. Raises UserError for a layout that does not fit.

    `kind` names all layouts of that kind. `kind:key=value:...` names one, with keys of the strategy or train.*.
    """
    kind, *keys = word.split(":")
    if not keys and kind in kinds.available("strategies"):
        return [other for other in every if other.strategy.kind == kind]
    changes = [key if key.startswith("train.") else f"strategy.{key}" for key in keys]
    changed = loaded.override(f"strategy={{kind: {kind}}}", *changes).value
    if problems := layout.misfits(changed, ranks):
        raise UserError([f"--strategies {word}: {p.what if isinstance(p, Problem) else p}" for p in problems])
    return [changed]


def _with_train(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """Return the recipe with other values below `train`."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def _difference(a: float, b: float) -> float:
    """Return the relative difference; infinite if one value is not finite."""
    return abs(a - b) / max(abs(b), 1e-12) if math.isfinite(a) and math.isfinite(b) else math.inf


def _speed(records: Sequence[Mapping[str, float]]) -> float:
    """Return the tokens per second without the first step, which is a warm-up."""
    first, last = records[0], records[-1]
    seconds = last["seconds"] - first["seconds"]
    return (last["tokens"] - first["tokens"]) / seconds if seconds > 0 else 0.0
