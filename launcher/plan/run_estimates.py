"""What a cluster's figures let one expect of a run: how long it takes at least, and how often a node is lost."""

from launcher.config import plugins
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture


def sample_operations(recipe: Recipe, shape: Architecture, facts: Facts) -> float | None:
    """Floating-point operations of a training sample, of the mean length of the training samples: forward, and twice as
    many backward. None where the architecture names no layers, or not all of it trains.

    Of a token 2 operations a parameter of the layers, and 4 hidden widths times the length for the two products of
    attention in each layer (Kaplan et al. 2020, Scaling Laws for Neural Language Models, table 1); of each output of
    the head a product with the hidden state. Embeddings are looked up, and cost none. A layer whose activations are
    checkpointed is computed forward once more.
    """
    if not (shape.in_layers and shape.layers and shape.hidden) or shape.trained < shape.parameters:
        return None
    tokens = facts.tokens["train"] / facts.samples["train"]
    task = plugins.task(recipe.task)(recipe.task, facts)
    layers = tokens * (2 * shape.in_layers + 4 * shape.hidden * tokens * shape.layers)
    head = 2 * task.output_size(round(tokens)) * shape.hidden
    every = recipe.train.checkpointed_every
    return float(layers * (3 + (1 / every if every else 0)) + 3 * head)


def run_seconds(cluster: Cluster, operations: float, ranks: int) -> float | None:
    """The least that so many operations take on all ranks, at the devices' peak, in seconds; None where the profile has
    no peak. Communication is left out: what of it shows depends on strategy, links and overlap."""
    return None if cluster.peak_tflops == "auto" else operations / (ranks * cluster.peak_tflops * 1e12)


def hours_between_failures(cluster: Cluster) -> float | None:
    """The mean time until one of the nodes is lost."""
    return cluster.hours_between_failures / cluster.nodes[1] if cluster.hours_between_failures else None


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 40 s, 12 min, 3.5 h, 2.1 days."""
    for size, unit in ((86400 * 2, "days"), (3600 * 2, "h"), (120, "min")):
        if seconds >= size:
            number = seconds / {"days": 86400, "h": 3600, "min": 60}[unit]
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
