"""`launcher parity`: the same few steps under each layout, beside the single process.

The strategy is a performance choice: losses, gradient norms and the digests of the data must be those of one process.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launcher.config import kinds, load
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.launch import execute, launch_spec
from launcher.plan import layout, model_requirements, model_spec, plan, writable_folders
from launcher.prepare import run_setup
from launcher.storage.run_dir import RunDir

TOLERANCE = {"fp64": (1e-10, 1e-8), "fp32": (1e-5, 1e-4), "fp16": (2**-11, 2**-9), "bf16": (2**-8, 2**-6)}
"""Relative differences allowed at the first step, and over all. Layouts add up the same numbers in another order: what
differs is rounding. The half types keep 11 or 8 bits of each activation, and a padding of another length alone moves
the last of them: one unit of that at the first step, though thousands of roundings average out, and four over all."""


@dataclass(frozen=True)
class Row:
    """A layout by step, how far it is from the single process (relative, of losses and gradient norms: at the first
    step, and the largest), and how fast and large it was. `estimate`: the plan's, in bytes. `wrong`: why it did not
    run."""

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


def parity(
    file: str, overrides: Sequence[str], strategies: str | None, ranks: Sequence[int], steps: int, cluster: Cluster
) -> Iterator[Row]:
    """The single process, then each layout on each number of ranks. Raises UserError before anything is started.

    The learning rate is constant: in a warmup the first updates are too small to show in a loss."""
    ours = [
        "train.strict_contract=true",
        *overrides,
        f"name=parity-{os.getpid()}",
        "strategy=single",
        "sinks=[]",
        "schedule=constant",
    ]
    known = load.recipe(file, ours).value
    if not (wrong := writable_folders.ranks(known, cluster, max(ranks, default=1))):
        execute.warm_up(launch_spec.imports(known))
    made = run_setup.check(file, ours, cluster, 1, wrong)
    todo = [(recipe, count) for count in ranks for recipe in _layouts(made, file, ours, strategies, count)]
    if not todo:
        raise UserError(f"--strategies: no layout of {strategies} runs on {', '.join(map(str, ranks))} ranks")
    with tempfile.TemporaryDirectory(prefix="launcher-parity-") as folder:
        run = _Bench(made, file, cluster, steps, Path(folder))
        alone = run.measure(made.recipe, 1)
        yield run.row(made.recipe, 1, alone, alone)
        for recipe, count in todo:
            try:
                yield run.row(recipe, count, run.measure(recipe, count), alone)
            except UserError as error:
                yield Row(label(recipe), count, wrong=" ".join(str(error).split()))


def label(recipe: Recipe) -> str:
    """A layout in the form that --strategies takes: kind:key=value."""
    keys = recipe.strategy.model_dump(mode="json", exclude_unset=True)
    parts = [f"{key}={value}" for key, value in keys.items() if key != "kind"]
    parts += ["train.compile=true"] if recipe.train.compile else []
    if recipe.train.checkpointed_every:
        parts.append(f"train.activation_checkpointing={recipe.train.activation_checkpointing}")
    return ":".join([recipe.strategy.kind, *parts])


def show(rows: Sequence[Row], precision: str, console: Console) -> None:
    """The table."""
    first, later = TOLERANCE[precision]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layout", overflow="fold")
    for name in ("ranks", "loss", "norm", "first", "all", "tokens/s", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        told = "[green]same[/]" if row.ok else f"[red]{row.wrong or 'differs'}[/]"
        cells = [""] * 6
        if row.losses:
            cells = [f"{row.losses[-1]:.4f}", f"{row.grad_norms[-1]:.4f}", f"{row.first:.0e}", f"{row.largest:.0e}"]
            cells += [f"{row.tokens_per_second:,.0f}", f"{row.memory / 2**20:,.0f}"]
        table.add_row(row.layout, str(row.ranks), *cells, told)
    console.print(table)
    console.print(
        f"loss and gradient norm of the last step; in {precision}, how far both are from one process, relatively: at "
        f"the first step (allowed: {first:.0e}) and at all (allowed: {later:.0e}); MiB: the most a rank needed",
        highlight=False,
    )


def as_json(rows: Sequence[Row]) -> str:
    """One list of objects; what is not a number is null."""
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(row).items()} for row in rows]
    return json.dumps(plain, indent=1)


@dataclass(frozen=True)
class _Bench:
    made: run_setup.PreparedRun
    file: str
    cluster: Cluster
    steps: int
    folder: Path

    def measure(self, recipe: Recipe, ranks: int) -> dict[str, Any]:
        """What rank 0 tells of some steps of a recipe. Raises UserError."""
        folder = RunDir(self.folder / str(len(list(self.folder.iterdir()))))
        planned = self._plan(recipe, ranks).model_copy(update={"folder": str(folder.path)})
        run_setup.write(
            replace(self.made, recipe=recipe, plan=planned, folder=folder, resume=None, start=None)
        ).release()
        outcome = execute.execute(launch_spec.measure(planned, self.cluster.env, self.steps))
        if outcome.result.get("stopped"):
            raise KeyboardInterrupt
        if outcome.code:
            raise UserError(outcome.problems or f"{label(recipe)}: the ranks failed (told above)")
        return dict(outcome.result)

    def row(self, recipe: Recipe, ranks: int, told: dict[str, Any], alone: dict[str, Any]) -> Row:
        pairs = list(zip(told["records"], alone["records"], strict=True))
        apart = [{key: _apart(a[key], b[key]) for key in ("loss", "grad_norm")} for a, b in pairs]
        largest = max(max(step.values()) for step in apart)
        same = all(a["data"] == b["data"] for a, b in pairs)
        first, later = TOLERANCE[recipe.train.precision]
        return Row(
            layout=label(recipe),
            ranks=ranks,
            losses=tuple(record["loss"] for record in told["records"]),
            grad_norms=tuple(record["grad_norm"] for record in told["records"]),
            first=max(apart[0].values()),
            largest=largest,
            data=same,
            tokens_per_second=_speed(told["records"]),
            memory=told["memory"],
            estimate=sum(self._plan(recipe, ranks).memory.values()),
            ok=same and max(apart[0].values()) <= first and largest <= later,
            wrong="" if same and math.isfinite(largest) else "not finite" if same else "other data",
        )

    def _plan(self, recipe: Recipe, ranks: int) -> plan.Plan:
        options: dict[str, Any] = {"facts": self.made.facts, "prepared": self.made.prepared}
        return plan.make(recipe, self.cluster, file=self.file, ranks=ranks, **options)


def _layouts(
    made: run_setup.PreparedRun, file: str, overrides: Sequence[str], strategies: str | None, ranks: int
) -> list[Recipe]:
    """The layouts named, else every one there is, and the first of them checkpointed and compiled."""
    recipe = made.recipe
    shape = model_spec.count(recipe, model_requirements.of(recipe, made.facts))
    every = list(layout.layouts(recipe, shape, ranks))
    if strategies is not None:
        words = [word.strip() for word in strategies.split(",")]
        return [found for word in words for found in _named(word, file, overrides, every, ranks)]
    dressed: list[dict[str, Any]] = [{"activation_checkpointing": "layers"}, {"compile": True}]
    return every + [_with(other, **change) for other in every[:1] for change in dressed]


def _named(word: str, file: str, overrides: Sequence[str], every: list[Recipe], ranks: int) -> list[Recipe]:
    """`kind` is every layout of that kind; `kind:key=value:...` is one, its keys those of the strategy or train.*."""
    kind, *keys = word.split(":")
    if not keys and kind in kinds.available("strategies"):
        return [other for other in every if other.strategy.kind == kind]
    changes = [key if key.startswith("train.") else f"strategy.{key}" for key in keys]
    changed = load.recipe(file, [*overrides, f"strategy={{kind: {kind}}}", *changes]).value
    if problems := layout.misfits(changed, ranks):
        raise UserError([f"--strategies {word}: {getattr(p, 'what', p)}" for p in problems])
    return [changed]


def _with(recipe: Recipe, **train: Any) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})


def _apart(a: float, b: float) -> float:
    """The relative difference; infinite where one is no number."""
    return abs(a - b) / max(abs(b), 1e-12) if math.isfinite(a) and math.isfinite(b) else math.inf


def _speed(records: list[dict[str, Any]]) -> float:
    """Tokens a second after the first step, which warms up."""
    first, last = records[0], records[-1]
    seconds = last["seconds"] - first["seconds"]
    return (last["tokens"] - first["tokens"]) / seconds if seconds > 0 else 0.0
