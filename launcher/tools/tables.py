"""Tables for a terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.format import human, plural
from launcher.plan.facts import Facts, cut_notes, label_counts
from launcher.plan.plan import Plan
from launcher.plan.run_estimates import duration

_PROCESS = "0.4 GiB"
"""The resident set of a rank before its model is built: the interpreter, torch and transformers."""
_CLASSES, _WORST = 50, 10
"""Of more classes than this a report shows so many."""


def plan(made: Plan, console: Console) -> None:
    """The plan as a table of two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    prepare = "known after `launcher prepare`"
    cores = f" ({plural(made.threads, 'thread')} each)" if made.device == "cpu" and made.threads else ""
    parts = ", ".join(f"{name} {human(size)}" for name, size in made.memory.items())
    estimate = human(sum(made.memory.values()))
    mesh = " x ".join(f"{name} {size}" for name, size in made.mesh.items())
    strategy = f"{made.strategy} ({mesh})" if len(made.mesh) > 1 else made.strategy
    rows = {
        "run": f"{made.name} in {made.folder}"
        + (f", resumes from step {made.resume_from}" if made.resume_from else ""),
        "ranks": f"{_ranks(made)} on {made.device}{cores}, {strategy}, {made.precision}",
        "global batch": made.equation,
        "steps": f"{made.steps:,}" if made.steps else prepare,
        "samples": f"{made.samples:,} ({made.epochs:.2f} epochs)" if made.samples and made.epochs else prepare,
        "tokens": _tokens(made) if made.tokens else prepare,
        **({"sources": _sources(made)} if made.sources else {}),
        **({"left out": _left_out(made.left_out)} if made.left_out else {}),
        **({"labels": made.labels} if made.labels else {}),
        "model": f"{made.model}, {made.parameters:,} parameters",
        "memory": f"about {estimate}{_of(made)} a device (estimate: {parts}){_beside(made)}",
        "checkpoint": f"{human(made.checkpoint_bytes)}, {made.checkpoints_kept} kept; {human(made.free_disk)} free",
        "data": made.prepared or "not prepared yet",
        **({"at best": _at_best(made)} if made.seconds_at_best or made.hours_between_failures else {}),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    console.print(
        f"[bold]start[/]         {escape(made.command)}", soft_wrap=True, highlight=False
    )  # whole, to be copied
    for note in made.notes:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)


def _of(made: Plan) -> str:
    if made.memory_per_device is None:
        return " (not checked: memory_per_device is unknown)"
    return f" of {human(made.memory_per_device)}"


def _beside(made: Plan) -> str:
    """What the estimate does not count. An accelerator has its memory for itself."""
    if made.device != "cpu":
        return ""
    return f", on top of the process itself: about {_PROCESS} a rank, and what the allocator keeps of freed memory"


def _ranks(made: Plan) -> str:
    if made.nodes == 1:
        return plural(made.ranks, "rank")
    most = plural(made.nodes, "node")
    nodes = most if made.least_nodes == made.nodes else f"{made.least_nodes} to {most}"
    return f"{plural(made.ranks, 'rank')} ({nodes} x {made.devices_per_node})"


def _at_best(made: Plan) -> str:
    """What the figures of the cluster's profile promise."""
    parts = []
    if made.seconds_at_best:
        parts.append(f"{duration(made.seconds_at_best)} of arithmetic at the devices' peak (without communication)")
    if made.hours_between_failures:
        parts.append(f"a node is lost every {duration(made.hours_between_failures * 3600)}")
    return "; ".join(parts)


def _tokens(made: Plan) -> str:
    return f"{made.tokens:,}" + (f", {made.fill:.0%} of the computed positions" if made.fill else "")


def _sources(made: Plan) -> str:
    """The shares of a mixture, and how often each source is gone through."""
    told = {name: "" if epochs is None else f" ({epochs:.2f} epochs)" for name, (_, epochs) in made.sources.items()}
    return ", ".join(f"{name} {share:.1%}{told[name]}" for name, (share, _) in made.sources.items())


def _left_out(counts: Mapping[str, int]) -> str:
    names = {"bad": "bad row", "duplicates": "duplicate", "empty": "document"}
    without = {"empty": " without a token"}
    return ", ".join(plural(count, names.get(name, name)) + without.get(name, "") for name, count in counts.items())


def facts(known: Facts, folder: object, console: Console) -> None:
    """What a prepared folder holds."""
    table = Table(box=None, pad_edge=False)
    for column, justify in (("side", "left"), ("samples", "right"), ("tokens", "right"), ("a sample", "right")):
        table.add_column(column, justify="left" if justify == "left" else "right")
    for side, count in known.samples.items():
        table.add_row(side, f"{count:,}", f"{known.tokens[side]:,}", f"{known.tokens[side] / max(1, count):.1f}")
    console.print(table)
    if known.left_out:
        console.print(f"left out: {_left_out(known.left_out)}", highlight=False)
    for note in [*cut_notes(known), *known.notes]:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    if known.counts:
        console.print(f"labels: {escape(label_counts(known))}", soft_wrap=True, highlight=False)
    labels = f", {len(known.labels)} labels" if known.labels else ""
    console.print(
        f"vocabulary {known.vocab_size:,}{labels}, longest sample {known.longest}; {escape(str(folder))}",
        soft_wrap=True,
    )


def metrics(values: Mapping[str, float], baseline: Mapping[str, float], console: Console, classes: bool = True) -> None:
    """Metrics of an evaluation; `classes`: metrics by class as one table beneath."""
    plain = {k: v for k, v in values.items() if k.startswith("eval/") and k.count("/") == 1}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in {**plain, **baseline}.items():
        table.add_row(name.removeprefix("eval/").replace("_", " "), f"{value:.4f}")
    console.print(table)
    scores = [name.removeprefix("eval/") for name in plain if any(k.startswith(f"{name}/") for k in values)]
    labels = [k.split("/", 2)[2] for k in values if scores and k.startswith(f"eval/{scores[0]}/")]
    if classes and labels:
        _by_class({label: {s: values[f"eval/{s}/{label}"] for s in scores} for label in labels}, console)


def classes(report: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """What a report tells of each class. Of very many, the worst."""
    worst = sorted(report, key=lambda label: (report[label].get("f1", 0.0), -report[label].get("support", 0.0)))
    shown = set(worst[:_WORST] if len(report) > _CLASSES else report)
    _by_class({label: values for label, values in report.items() if label in shown}, console)
    if len(shown) < len(report):
        console.print(f"the {len(shown)} worst of {len(report)} classes", highlight=False)


def _by_class(rows: Mapping[str, Mapping[str, float]], console: Console) -> None:
    names = next(iter(rows.values()), {})
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for label, values in rows.items():
        table.add_row(escape(label), *(f"{values[n]:,.0f}" if n == "support" else f"{values[n]:.4f}" for n in names))
    console.print(table)
