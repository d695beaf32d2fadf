"""What the ranks of a recipe do in a training step, from the recipe, the model and the facts about its data."""

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.plan import memory, padding_estimate, run_estimates
from launcher.plan.collectives import RankStep
from launcher.plan.device_rates import ClusterRates, kind_of, rates
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.plan.step_time import StepTime, StepWork, predict
from launcher.plan.topology import World

_PASSES, _AGAIN = 4, 2
"""Times that the bytes of stored activations move: written and read in the forward; read in the backward, with a
gradient of their size. A layer that is recomputed repeats its forward."""
_KERNELS, _OUTSIDE = 110, 200
"""Kernels of a micro-batch in each layer, and outside of them, forward and backward. Counted for a BERT of
transformers."""
_HALF = ("bf16", "fp16")


def mean_tokens(facts: Facts) -> float:
    """Return the mean tokens of a training sample. Before the data is prepared, samples are as long as can be."""
    return facts.tokens["train"] / facts.samples["train"] if facts.samples.get("train") else float(facts.longest)


def positions_of_sample(recipe: Recipe, facts: Facts, ranks: int) -> float:
    """Return the mean positions that are computed for a sample, padding included."""
    return mean_tokens(facts) / (padding_estimate.expected(recipe, facts, ranks) or 1.0)


def of_rank(recipe: Recipe, facts: Facts, ranks: int) -> RankStep:
    """Return the step of the rank with the largest share of the samples."""
    samples = -(-recipe.train.global_batch // max(1, ranks // recipe.tensor_parallel))
    positions = samples * positions_of_sample(recipe, facts, ranks)
    limit = recipe.train.max_tokens
    micro_batches = 1 if limit is None else max(1, min(samples, -(-positions // limit)))
    every = recipe.train.checkpointed_every
    precision = recipe.train.precision
    return RankStep(
        ranks, int(micro_batches), positions / micro_batches, memory.stored_bytes(precision),
        memory.activation_bytes(precision), 1 / every if every else 0.0,
    )  # fmt: skip


def work(recipe: Recipe, shape: Architecture, facts: Facts, step: RankStep, device: str) -> StepWork | None:
    """Return the work of a rank in a step; None: not known, since the architecture names no layers, or only a part of
    it is trained (see `run_estimates.sample_operations`)."""
    if run_estimates.training_operations(shape, 1.0, 1.0, 1.0) is None:
        return None
    tensor, times = recipe.tensor_parallel, step.micro_batches
    positions, length = step.positions * times, positions_of_sample(recipe, facts, step.ranks)
    samples = positions / length
    outputs = plugins.task(recipe.task)(recipe.task, facts).output_size(round(mean_tokens(facts)))
    layers, head = run_estimates.forward_operations(shape, positions, positions * length, samples * outputs)
    layers /= tensor
    stored = memory.of_token(recipe, shape, round(length), device) * positions * shape.layers / tensor
    logits = samples * outputs * (3 * max(4, step.weight) + step.activation)
    share = plugins.strategy(recipe.strategy).memory_share(shape, step.ranks)
    held = shape.in_layers / tensor + shape.parameters - shape.in_layers
    weights = held * _weight_traffic(recipe.train.precision, step.weight) * times
    moments = recipe.optimizer.moments(shape.in_layers / shape.parameters)
    return StepWork(
        operations=layers * (3 + step.recomputed) + 3 * head,
        traffic=stored * (_PASSES + _AGAIN * step.recomputed) + 2 * logits + weights,
        update=(2 * moments + 4) * step.weight * shape.trained * max(share.optimizer, share.moved),
        micro_batches=times,
        forward=1 / (3 + step.recomputed),
        kernels=float((_KERNELS * (1 + step.recomputed / 3) * shape.layers + _OUTSIDE) * times),
    )


def _weight_traffic(precision: str, width: int) -> int:
    """Return the bytes that a parameter moves in a micro-batch: read in the forward and twice in the backward, its
    gradient written, and added to that of the step. Autocast copies it to half precision, and its gradient back."""
    return (4 + 2) + 3 * 2 + 2 + (2 + 4) + 3 * 4 if precision in _HALF else 3 * width + width + 3 * width


def step_time(recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, rates: ClusterRates) -> StepTime | None:
    """Return the predicted time of a step; None: see `work`."""
    step = of_rank(recipe, facts, ranks)
    device = "cuda" if rates.device.asynchronous else "cpu"
    if (of_step := work(recipe, shape, facts, step, device)) is None:
        return None
    exchanged = plugins.strategy(recipe.strategy).collectives(shape, step) if ranks > 1 else []
    return predict(of_step, rates.device, rates.links, exchanged)


def of_world(recipe: Recipe, shape: Architecture, facts: Facts, world: World) -> StepTime | None:
    """Return the predicted time of a step on the ranks of a profile; None: a figure is not known, or see `work`."""
    ranks, cluster = world.max_ranks, world.cluster.model_copy(update={"device": world.device})
    kind = kind_of(world.devices.name)
    reached = rates(cluster, kind, recipe.train.precision, world.per_node, ranks // world.per_node)
    return step_time(recipe, shape, facts, ranks, reached) if isinstance(reached, ClusterRates) else None


def mfu(
    recipe: Recipe, shape: Architecture, facts: Facts, ranks: int, rates: ClusterRates, seconds: float
) -> float | None:
    """Return the model FLOPs utilisation of steps that take so many seconds; None: see `work`."""
    tokens = mean_tokens(facts)
    outputs = plugins.task(recipe.task)(recipe.task, facts).output_size(round(tokens))
    of_sample = run_estimates.training_operations(shape, tokens, tokens**2, outputs)
    return None if of_sample is None else of_sample * recipe.train.global_batch / (seconds * ranks * rates.peak)
