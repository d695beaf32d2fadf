"""Tables of a plan, of prepared data and of metrics, for a terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.format import human, plural
from launcher.plan import run_estimates
from launcher.plan.facts import Facts, cut_notes, label_counts
from launcher.plan.memory import MemoryTrace
from launcher.plan.plan import Plan
from launcher.plan.run_estimates import duration
from launcher.plan.step_time import StepTime

_PROCESS = "0.4 GiB"
"""Resident set of a rank before its model is built: the interpreter, torch and transformers."""
_CLASSES, _WORST = 50, 10
"""Maximum number of classes in a report, and the number of classes to show if there are more."""


def print_plan(plan: Plan, console: Console) -> None:
    """Print a plan as a table of two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    prepare = "known after `launcher prepare`"
    cores = f" ({plural(plan.threads, 'thread')} each)" if plan.device == "cpu" and plan.threads else ""
    parts = ", ".join(f"{name} {human(size)}" for name, size in plan.memory.items())
    estimate = human(sum(plan.memory.values()))
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    strategy = f"{plan.strategy} ({mesh})" if len(plan.mesh) > 1 else plan.strategy
    rows = {
        "run": f"{plan.name} in {plan.folder}"
        + (f", resumes from step {plan.resume_from}" if plan.resume_from else ""),
        "ranks": f"{_ranks(plan)} on {plan.device}{cores}, {strategy}, {plan.precision}",
        "global batch": plan.equation,
        "steps": f"{plan.steps:,}" if plan.steps else prepare,
        "samples": f"{plan.samples:,} ({plan.epochs:.2f} epochs)" if plan.samples and plan.epochs else prepare,
        "tokens": _tokens(plan) if plan.tokens else prepare,
        **({"sources": _sources(plan)} if plan.sources else {}),
        **({"held out": _held_out(plan.held_out)} if plan.held_out else {}),
        **({"left out": _left_out(plan.left_out)} if plan.left_out else {}),
        **({"labels": plan.labels} if plan.labels else {}),
        "model": _model(plan),
        "memory": f"about {estimate}{_device_memory(plan)} a device (estimate: {parts}){_not_counted(plan)}",
        **({"copies": f"{human(plan.copy_bytes)} of each node's memory"} if plan.copy_bytes else {}),
        "checkpoint": _checkpoint(plan),
        **({"interval": plan.checkpoint_interval} if plan.checkpoint_interval else {}),
        "data": plan.prepared or "not prepared yet",
        "time": _time(plan),
        **({"at best": _at_best(plan.seconds_at_best)} if plan.seconds_at_best else {}),
        **({"predicted": _predicted(plan.predicted)} if plan.predicted else {}),
        **({"failures": _failures(plan, plan.hours_between_failures)} if plan.hours_between_failures else {}),
        **({"goodput": _goodput(plan)} if plan.hours_between_failures else {}),
        **({"cost": _cost(plan, plan.price_per_hour)} if plan.price_per_hour else {}),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    console.print(
        f"[bold]start[/]         {escape(plan.command)}", soft_wrap=True, highlight=False
    )  # not wrapped, so that it can be copied
    for warning in plan.warnings:
        console.print(f"[bold yellow]warning[/]: {escape(warning)}", soft_wrap=True, highlight=False)
    for note in plan.notes:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    if plan.trace is not None:
        _print_trace(plan, plan.trace, console)


def _print_trace(plan: Plan, trace: MemoryTrace, console: Console) -> None:
    """Print the traced memory of a rank by purpose, beside the estimate and the memory of a device."""
    if trace.problem:
        console.print(f"[yellow]trace[/]: {escape(trace.problem)}; the estimate above holds", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column(f"memory of one of {plural(plan.ranks, 'rank')}")
    for name in ("trace", "estimate"):
        table.add_column(name, justify="right", no_wrap=True)
    for purpose in dict.fromkeys([*plan.memory, *trace.purposes]):
        sizes = (found.get(purpose) for found in (trace.purposes, plan.memory))
        table.add_row(purpose, *("" if size is None else human(size) for size in sizes))
    table.add_row("[bold]together[/]", *(human(sum(found.values())) for found in (trace.purposes, plan.memory)))
    if plan.memory_per_device is not None:
        table.add_row("[bold]of the device[/]", *[human(plan.memory_per_device)] * 2)
    console.print()
    console.print(table)
    start = f"before the first step at most {human(trace.start)}"
    micro_batch = f"micro-batches of {trace.rows} x {trace.tokens}"
    console.print(
        f"the trace is highest in the {trace.stage}; {start}; {micro_batch}; {trace.seconds:.0f} s", highlight=False
    )


def _device_memory(plan: Plan) -> str:
    if plan.memory_per_device is None:
        return " (not checked: memory_per_device is unknown)"
    return f" of {human(plan.memory_per_device)}"


def _not_counted(plan: Plan) -> str:
    """Return a text about memory on a CPU that the estimate does not include; empty for an accelerator."""
    if plan.device != "cpu":
        return ""
    return f", on top of the process itself: about {_PROCESS} a rank, and what the allocator keeps of freed memory"


def _ranks(plan: Plan) -> str:
    if plan.nodes == 1:
        return plural(plan.ranks, "rank")
    nodes = plural(plan.nodes, "node")
    nodes = nodes if plan.least_nodes == plan.nodes else f"{plan.least_nodes} to {nodes}"
    return f"{plural(plan.ranks, 'rank')} ({nodes} x {plan.devices_per_node})"


def _model(plan: Plan) -> str:
    """Return a text with the parameters of a model by part, and how many of them train."""
    parts = ", ".join(f"{name} {count:,}" for name, count in plan.parts.items())
    trained = f"; {plan.trained:,} train" if 0 < plan.trained < plan.parameters else ""
    return f"{plan.model}, {plan.parameters:,} parameters{f' ({parts})' if parts else ''}{trained}"


def _time(plan: Plan) -> str:
    """Return a text about the expected duration of the whole run."""
    if plan.expected_seconds is None:
        return "not known: no earlier run of this model, data and layout"
    return f"about {duration(plan.expected_seconds)}, as measured in {plan.measured_in}"


def _goodput(plan: Plan) -> str:
    if plan.goodput is None:
        return "not known: the checkpoint interval is in steps, whose time is not known"
    return f"{plan.goodput:.1%} expected (Daly, 2006; `launcher simulate` shows where the time goes)"


def _cost(plan: Plan, price: float) -> str:
    """Return a text with the expected price of the run. `price`: of a node for an hour."""
    nodes = f"{plural(plan.nodes, 'node')} at {price:,.2f} an hour"
    if plan.cost is None:
        return f"not known: {nodes}, and the time is not known"
    failures = ", failures included" if plan.goodput is not None else ""
    return f"about {plan.cost:,.2f}: {nodes}{failures}"


def _at_best(seconds: float) -> str:
    """Return a text about the minimum duration, by the figures of the cluster's profile."""
    return f"{duration(seconds)} of arithmetic at the devices' peak (without communication)"


def _predicted(step: StepTime) -> str:
    """Return a text about the predicted time of a step and its parts."""
    names = ("arithmetic", "memory", "communication", "host")
    parts = ", ".join(f"{name} {getattr(step, name) / step.total:.0%}" for name in names)
    return f"{step.total * 1e3:,.1f} ms a step ({parts}; not measured)"


def _failures(plan: Plan, hours: float) -> str:
    return run_estimates.failures(hours, plan.seconds_at_best, plan.checkpoint_bytes)


def _checkpoint(plan: Plan) -> str:
    copy = f"; {human(plan.checkpoint_copy)} of host memory a rank for a copy" if plan.checkpoint_copy else ""
    needed = human(plan.checkpoint_bytes * (plan.checkpoints_kept + 1))  # the newest is written before one is deleted
    kept = f"{plan.checkpoints_kept} kept and one being written take {needed} of {human(plan.free_disk)} free"
    return f"{human(plan.checkpoint_bytes)}; {kept}{copy}"


def _tokens(plan: Plan) -> str:
    if not plan.fill:
        return f"{plan.tokens:,}"
    padded = " if samples are padded" if plan.fill < 0.995 else ""  # the ranks decide about rows without padding
    return f"{plan.tokens:,}, {plan.fill:.0%} of the computed positions{padded}"


def _sources(plan: Plan) -> str:
    """Return a text with the fractions of a mixture, and the epochs of each source."""
    passes = {name: "" if epochs is None else f" ({epochs:.2f} epochs)" for name, (_, epochs) in plan.sources.items()}
    return ", ".join(f"{name} {share:.1%}{passes[name]}" for name, (share, _) in plan.sources.items())


def _held_out(samples: Mapping[str, int]) -> str:
    """Return a text with the samples for validation and test, and the command that alone reads the latter."""
    where = {"test": " (only `launcher evaluate RUN --split test` reads them)"}
    return ", ".join(f"{side} {plural(count, 'sample')}{where.get(side, '')}" for side, count in samples.items())


def _left_out(counts: Mapping[str, int]) -> str:
    names = {"bad": "bad row", "duplicates": "duplicate", "empty": "document"}
    without = {"empty": " without a token"}
    return ", ".join(plural(count, names.get(name, name)) + without.get(name, "") for name, count in counts.items())


def print_facts(known: Facts, folder: object, console: Console) -> None:
    """Print the contents of a prepared folder."""
    table = Table(box=None, pad_edge=False)
    for column, justify in (("side", "left"), ("samples", "right"), ("tokens", "right"), ("a sample", "right")):
        table.add_column(column, justify="left" if justify == "left" else "right")
    for side, count in known.samples.items():
        table.add_row(
            escape(side), f"{count:,}", f"{known.tokens[side]:,}", f"{known.tokens[side] / max(1, count):.1f}"
        )
    console.print(table)
    if known.left_out:
        console.print(f"left out: {_left_out(known.left_out)}", highlight=False, markup=False)
    for note in [*cut_notes(known), *known.notes]:
        console.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
    if known.counts:
        console.print(f"labels: {escape(label_counts(known))}", soft_wrap=True, highlight=False)
    labels = f", {len(known.labels)} labels" if known.labels else ""
    console.print(
        f"vocabulary {known.vocab_size:,}{labels}, longest sample {known.longest}; {escape(str(folder))}",
        soft_wrap=True,
    )


def print_metrics(
    values: Mapping[str, float], baseline: Mapping[str, float], console: Console, classes: bool = True
) -> None:
    """Print the metrics of an evaluation next to the baseline. `classes`: also print those of single classes, as a
    second table."""
    plain = {k: v for k, v in values.items() if k.startswith("eval/") and k.count("/") == 1}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in {**plain, **baseline}.items():
        table.add_row(escape(name.removeprefix("eval/").replace("_", " ")), f"{value:.4f}")
    console.print(table)
    scores = [name.removeprefix("eval/") for name in plain if any(k.startswith(f"{name}/") for k in values)]
    labels = [k.split("/", 2)[2] for k in values if scores and k.startswith(f"eval/{scores[0]}/")]
    if classes and labels:
        _by_class({label: {s: values[f"eval/{s}/{label}"] for s in scores} for label in labels}, console)


def print_classes(report: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Print the metrics of each class. If there are very many classes, print only the worst."""
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
        table.add_column(escape(name), justify="right", no_wrap=True)
    for label, values in rows.items():
        table.add_row(escape(label), *(f"{values[n]:,.0f}" if n == "support" else f"{values[n]:.4f}" for n in names))
    console.print(table)
