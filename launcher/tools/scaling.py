"""`launcher scaling`: the predicted time of a recipe's step on many devices, with the same global batch and with a
constant batch of each device."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from launcher.config.base_model import hint
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.format import human
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.plan import facts as data_facts
from launcher.plan import layout, model_requirements, model_spec, step_work
from launcher.plan.device_rates import KINDS, ClusterRates, GpuKind, kind_of, rates
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.plan.step_time import StepTime
from launcher.plan.topology import GIB
from launcher.prepare import prepared_data, run_setup, token_ids

_MOST = 2**20
"""Maximum number of devices."""


@dataclass(frozen=True)
class Row:
    """A number of devices. `time`: None: there is none, for the reason `problem`. `note`: a remark; empty: none."""

    devices: int
    batch: int
    time: StepTime | None = None
    tokens_per_second: float = 0.0
    mfu: float = 0.0
    efficiency: float = 0.0
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Model:
    recipe: Recipe
    shape: Architecture
    facts: Facts
    prepared: bool


@dataclass(frozen=True)
class _Target:
    """Devices to predict for. `memory`: bytes of one; None: not known."""

    name: str
    cluster: Cluster
    kind: GpuKind | None
    per_node: int
    memory: int | None

    def rates(self, precision: str, devices: int) -> ClusterRates:
        """Return the rates for so many devices. Raises UserError that names the keys that are not known."""
        found = rates(self.cluster, self.kind, precision, min(devices, self.per_node), -(-devices // self.per_node))
        if isinstance(found, ClusterRates):
            return found
        if self.kind is not None:
            raise UserError(Problem("train.precision", f"{precision}: no peak is known for {self.name}"))
        kinds = ", ".join(KINDS)
        advice = f"write them into it, or name a kind of GPU: --gpu {kinds}"
        raise UserError(f"the profile {self.cluster.name} lacks {', '.join(found)} ({advice})")


def counts(text: str) -> list[int]:
    """Return the numbers of devices in a text such as `8,16,32`. Raises UserError."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1 or found[-1] > _MOST:
        raise UserError(f"--devices {text}: should be numbers of devices, such as 8,16,32")
    return found


def target(cluster: Cluster, gpu: str | None) -> _Target:
    """Return the devices of a profile, or of a kind of GPU. Raises UserError for an unknown kind."""
    kind = None
    if gpu is not None and (kind := KINDS.get(gpu.upper(), kind_of(gpu))) is None:
        raise UserError(f"--gpu {gpu}: unknown kind ({hint(gpu.upper(), KINDS)})")
    per_node = cluster.devices_per_node
    if per_node == "auto":
        per_node = kind.per_node if kind else 1
    memory = cluster.memory_per_device
    gib = (kind.memory if kind else None) if memory == "auto" else memory
    return _Target(gpu or cluster.name, cluster, kind, per_node, None if gib is None else int(gib * GIB))


def report(loaded: Loaded[Recipe], asked: _Target, devices: Sequence[int], as_json: bool, console: Console) -> None:
    """Print the predicted steps of a recipe on so many devices, for both kinds of scaling. Raises UserError."""
    try:
        model = _model(loaded)
        batch, each = model.recipe.train.global_batch, -(-model.recipe.train.global_batch // devices[0])
        strong = rows(model, asked, [(count, batch) for count in devices])
        weak = rows(model, asked, [(count, each * count) for count in devices])
    except UserError as error:
        raise loaded.located(error) from None
    if as_json:
        print(
            json.dumps({"strong": [_as_json(row) for row in strong], "weak": [_as_json(row) for row in weak]}, indent=1)
        )
        return
    _print_line(console, _heading(model, asked))
    for title, found in (
        (f"the same global batch of {batch:,} (strong scaling)", strong),
        (f"{each:,} samples a device (weak scaling; another global batch is another training)", weak),
    ):
        console.print()
        _print_line(console, title)
        if any(row.time for row in found):
            console.print(_table(found))
        for note in _notes(found):
            console.print(f"[yellow]note[/]: {note}", soft_wrap=True, highlight=False)
    console.print()
    _print_line(console, "predicted, not measured (docs/scaling.md); * marks the largest part of a step")


def _heading(model: _Model, asked: _Target) -> str:
    recipe, shape = model.recipe, model.shape
    known = "" if model.prepared else ", the longest: known after `launcher prepare`"
    parts = (
        f"{recipe.name} on {asked.name}, {asked.per_node} a node: {shape.name} of {shape.parameters:,} parameters",
        layout.written(recipe.strategy),
        recipe.train.precision,
        f"{step_work.mean_tokens(model.facts):.0f} tokens a sample{known}",
    )
    return ", ".join(parts)


def _model(loaded: Loaded[Recipe]) -> _Model:
    """Return a recipe with its architecture, and the facts about its data if it is prepared. Raises UserError."""
    recipe = run_setup.pinned(loaded)
    prepared = prepared_data.find(prepared_data.identity(recipe))
    known = token_ids.complete(recipe, prepared) if prepared else data_facts.guess(recipe)
    shape = model_spec.count(recipe, model_requirements.of(recipe, known))
    return _Model(recipe, shape, known, prepared is not None)


def rows(model: _Model, asked: _Target, sizes: Sequence[tuple[int, int]]) -> list[Row]:
    """Return a row for each pair of devices and global batch. Scaling efficiency is relative to the first row that has
    a time. Raises UserError."""
    found, first = list[Row](), None
    for devices, batch in sizes:
        row = _row(model, asked, devices, batch)
        if row.time is not None:
            first = first or row
            relative = row.tokens_per_second / row.devices / (first.tokens_per_second / first.devices)
            row = replace(row, efficiency=relative)
        found.append(row)
    return found


def _row(model: _Model, asked: _Target, devices: int, batch: int) -> Row:
    train = model.recipe.train.model_copy(update={"global_batch": batch})
    recipe, shape, known = model.recipe.model_copy(update={"train": train}), model.shape, model.facts
    if wrong := layout.misfits(recipe, devices):
        return Row(devices, batch, problem=wrong[0].what if isinstance(wrong[0], Problem) else wrong[0])
    if batch < devices // recipe.tensor_parallel:
        return Row(devices, batch, problem="more devices than samples")
    reached = asked.rates(recipe.train.precision, devices)
    time = step_work.step_time(recipe, shape, known, devices, reached)
    if time is None:
        what = f"the operations of {shape.name} are not known: it names no layers, or only a part of it is trained"
        raise UserError(Problem("model", what))
    needed = sum(
        layout.needed(recipe, shape, known, devices, "cuda" if asked.cluster.device != "cpu" else "cpu").values()
    )
    tight = asked.memory is not None and needed > asked.memory
    note = f"does not fit: about {human(needed)} of {human(asked.memory or 0)}" if tight else ""
    return Row(
        devices, batch, time, tokens_per_second=batch * step_work.mean_tokens(known) / time.total,
        mfu=step_work.mfu(recipe, shape, known, devices, reached, time.total) or 0.0, note=note,
    )  # fmt: skip


def _table(found: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = ("devices", "batch", "step ms", "tokens/s", "MFU", "scaling", "compute", "memory", "links", "host")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in found:
        time = row.time
        if time is None:
            continue
        parts = {name: getattr(time, name) for name in _PARTS}
        shares = [f"{seconds / time.total:.0%}{'*' if name == time.bound else ' '}" for name, seconds in parts.items()]
        table.add_row(
            f"{row.devices:,}", f"{row.batch:,}", f"{time.total * 1e3:,.1f}", f"{row.tokens_per_second:,.0f}",
            f"{row.mfu:.1%}", f"{row.efficiency:.0%}", *shares,
        )  # fmt: skip
    return table


def _notes(found: Sequence[Row]) -> list[str]:
    """Return why rows have no time, and remarks on others, each with its numbers of devices."""
    reasons = dict.fromkeys(filter(None, (row.problem or row.note for row in found)))
    return [
        f"{', '.join(f'{row.devices:,}' for row in found if reason in (row.problem, row.note))} devices: {reason}"
        for reason in reasons
    ]


_PARTS = ("arithmetic", "memory", "communication", "host")


def _as_json(row: Row) -> dict[str, object]:
    if row.time is None:
        return {"devices": row.devices, "batch": row.batch, "problem": row.problem}
    return {
        "devices": row.devices, "batch": row.batch, "seconds": row.time.total, **row.time.model_dump(),
        "bound": row.time.bound, "tokens_per_second": row.tokens_per_second, "mfu": row.mfu,
        "efficiency": row.efficiency, **({"note": row.note} if row.note else {}),
    }  # fmt: skip


def _print_line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
