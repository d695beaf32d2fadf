"""Estimates from a cluster's figures: the minimum duration of a run, and the time between failures."""

from launcher.config import plugins
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.config.training import AUTO
from launcher.plan import checkpoint_interval as interval
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture

BYTES_PER_SECOND = 2e9
"""Assumed speed of all ranks together when they write or read a checkpoint."""

LAUNCH, START, DETECT, REQUEUE = 60.0, 60.0, 30.0, 300.0
"""Assumed seconds from a command to its ranks; of the ranks to their first step, without loading; from a failure until
it is noticed; and of the wait for another node."""


def sample_operations(recipe: Recipe, shape: Architecture, facts: Facts) -> float | None:
    """Return the floating-point operations of a training sample of mean length; None: not known.

    They are those of a forward pass, and of a backward pass with twice as many. They are not known if the architecture
    names no layers, or if only a part of it is trained.

    A token needs 2 operations for each parameter of the layers, and 4 hidden widths times the length for the two
    products of attention in each layer (Kaplan et al., 2020, table 1). Each output of the head needs a product with the
    hidden state. Embedding lookups are free. A layer with checkpointed activations runs forward once more.
    """
    if not _has_layers(shape):
        return None
    tokens = facts.tokens["train"] / facts.samples["train"]
    task = plugins.task(recipe.task)(recipe.task, facts)
    layers, head = forward_operations(shape, tokens, tokens**2, task.output_size(round(tokens)))
    every = recipe.train.checkpointed_every
    return float(layers * (3 + (1 / every if every else 0)) + 3 * head)


def forward_operations(shape: Architecture, tokens: float, squares: float, outputs: float) -> tuple[float, float]:
    """Return the floating-point operations of a forward pass of all layers, and those of the head.

    `tokens`: of all samples; `squares`: the sum of their squared lengths; `outputs`: number of values that the head
    returns.
    """
    layers = 2 * shape.in_layers * tokens + 4 * shape.hidden * shape.layers * squares
    return float(layers), float(2 * shape.hidden * outputs)


def training_operations(shape: Architecture, tokens: float, squares: float, outputs: float) -> float | None:
    """Return the floating-point operations of a training step, without recomputation; None: not known (see
    `sample_operations`). The arguments are those of `forward_operations`."""
    if not _has_layers(shape):
        return None
    return 3 * sum(forward_operations(shape, tokens, squares, outputs))


def _has_layers(shape: Architecture) -> bool:
    """Return whether the architecture names layers, and is trained as a whole."""
    return bool(shape.in_layers and shape.layers and shape.hidden) and shape.trained >= shape.parameters


def run_seconds(cluster: Cluster, operations: float | None, ranks: int, published: float | None = None) -> float | None:
    """Return the seconds that all ranks compute `operations` at the devices' peak; None: a number is not known.

    `published`: FLOP/s of a device by its data sheet, for a profile that gives none. Communication is left out, since
    its visible part depends on strategy, links and overlap.
    """
    peak = published if cluster.peak_tflops == "auto" else cluster.peak_tflops * 1e12
    return None if operations is None or peak is None else operations / (ranks * peak)


def hours_between_failures(cluster: Cluster) -> float | None:
    """Return the mean hours until one of the nodes fails; None: not known."""
    return cluster.hours_between_failures / cluster.nodes[1] if cluster.hours_between_failures else None


def save_seconds(checkpoint_bytes: int) -> float:
    """Return the assumed seconds of a save: one, and the time to write at `BYTES_PER_SECOND`."""
    return 1 + checkpoint_bytes / BYTES_PER_SECOND


def failures(between: float, seconds: float | None, checkpoint_bytes: int) -> str:
    """Return a text about the failures of a job and the checkpoints that they call for.

    `between`: hours between its failures; `seconds`: minimum duration of the run; None: not known.
    """
    count = (seconds or 0.0) / between / 3600
    often = f", at least {count:.1f} times in this run" if count >= 0.1 else ""
    cost = save_seconds(checkpoint_bytes)
    best = duration(interval.optimal(cost, between * 3600))
    advice = f"best is a checkpoint every {best}, if one takes {duration(cost)}"
    return f"a node is lost every {duration(between * 3600)}{often}; {advice}"


def checkpoint_interval(recipe: Recipe, cluster: Cluster) -> str:
    """Return how `checkpoint.every: auto` finds its interval, in words; empty: the interval is given."""
    if recipe.checkpoint.every != AUTO:
        return ""
    between = interval.between_failures(cluster)
    source = "" if cluster.hours_between_failures else f" (taken as {interval.HOURS_OF_NODE:.0f} hours for a node)"
    least = duration(interval.optimal(interval.LEAST_COST, between))
    formula = f"sqrt(2 x cost of a save x {duration(between)} between failures{source})"
    return f"checkpoint.every: auto is about {formula}: {least} for a cost of {interval.LEAST_COST:g} s, the least"


def duration(seconds: float) -> str:
    """Return seconds with a suitable unit: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "h"), (120, "min")):
        if seconds >= size:
            number = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def remaining(seconds: float) -> str:
    """Return the time that remains, in whole seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else duration(seconds)
