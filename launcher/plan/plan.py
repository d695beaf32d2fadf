"""Plan a run from a recipe and a cluster: decide every number and find every mistake, but start nothing."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.config import paths, plugins, trust
from launcher.config.atomic_files import free_bytes
from launcher.config.base_model import Strict
from launcher.config.cluster import Cluster
from launcher.config.document import Document
from launcher.config.errors import Problem
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.plan import (
    checks,
    layout,
    memory,
    notes,
    padding_estimate,
    run_estimates,
    sample_order,
    step_work,
    topology,
    warnings,
)
from launcher.plan.device_facts import Devices
from launcher.plan.facts import Facts, guess, steps_of
from launcher.plan.memory import MemoryTrace
from launcher.plan.model_spec import Architecture
from launcher.plan.peak_flops import peak_flops
from launcher.plan.step_time import StepTime
from launcher.storage.run_dir import RunDir


class Plan(Strict):
    """Everything that is decided about a run before it starts. Sizes are in bytes."""

    name: str
    """Name of the run."""
    folder: str
    """Folder of the run."""
    prepared: str | None
    """Folder of the prepared data; None: not prepared yet."""
    cluster: str = "local"
    """Name of the cluster profile."""
    nodes: int
    """Maximum number of nodes."""
    least_nodes: int = 1
    """Minimum number of nodes of an elastic run."""
    devices_per_node: int = 1
    """Ranks of a node."""
    ranks: int
    """Ranks of all nodes."""
    tensor_parallel: int
    """Ranks that share each sample."""
    device: str
    """Device type."""
    threads: int | None
    """Threads of a rank; None: not known."""
    strategy: str
    """Kind of the strategy."""
    mesh: dict[str, int] = {}
    """Size of each dimension of the device mesh."""
    precision: str
    """Number format of the computation."""
    global_batch: int
    """Samples of an optimiser step."""
    micro_batches: int
    """Micro-batches of a rank in a step."""
    micro_samples: int
    """Maximum number of samples of full length in a micro-batch."""
    steps: int | None
    """Optimiser steps; None: not known before the data is prepared."""
    epochs: float | None
    """Passes over the training samples."""
    samples: int | None
    """Samples of the whole run; None: not known before the data is prepared."""
    tokens: int | None
    """Tokens of the whole run; None: not known before the data is prepared."""
    fill: float | None = None
    """Expected share of computed positions that are tokens."""
    documents: int | None = None
    """Training documents."""
    held_out: dict[str, int] = {}
    """Samples of each side that is not trained: validation and test."""
    left_out: dict[str, int] = {}
    """Rows that gave no sample, by reason."""
    labels: str = ""
    """Labels of the training data with their counts, in one line."""
    sources: dict[str, tuple[float, float | None]] = {}
    """For each source of a mixture, its share of the samples and its epochs."""
    model: str
    """Name of the model type."""
    parameters: int
    """Number of parameters."""
    trained: int = 0
    """Number of parameters that train; 0: not known, as in a plan of an earlier launcher."""
    parts: dict[str, int] = {}
    """Parameters by part of the model."""
    memory: dict[str, int]
    """Device memory by purpose."""
    trace: MemoryTrace | None = None
    """Memory of a rank, traced on fake tensors; None: not requested."""
    memory_per_device: int | None
    """Memory of a device; None: not known."""
    checkpoint_bytes: int
    """Size of a checkpoint."""
    copy_bytes: int = 0
    """Memory of each node for copies of the state."""
    checkpoints_kept: int
    """Number of checkpoints to keep."""
    checkpoint_copy: int = 0
    """Host memory of a rank for the copy from which a thread writes checkpoints."""
    checkpoint_interval: str = ""
    """How `checkpoint.every: auto` finds the interval between checkpoints; empty: it is given."""
    free_disk: int
    """Free space on the disk of the run folder."""
    seconds_at_best: float | None = None
    """Seconds of computation of the whole run at the cluster's peak."""
    predicted: StepTime | None = None
    """Predicted time of a step; None: a figure of the devices is not known."""
    expected_seconds: float | None = None
    """Expected seconds of the whole run without failures, by an earlier run; None: none is known."""
    measured_in: str = ""
    """Run folder from which `expected_seconds` was computed."""
    goodput: float | None = None
    """Expected share of the time in steps that count, if nodes fail as often as the profile states; None: not known."""
    price_per_hour: float | None = None
    """Price of a node for an hour; None: the profile has none."""
    cost: float | None = None
    """Price of all nodes for the expected time with failures; None: the time or the price is not known."""
    hours_between_failures: float | None = None
    """Mean hours between failures, over all nodes."""
    resume_from: int | None
    """Step of the checkpoint to resume from; None: a new run."""
    max_restarts: int
    """Maximum number of restarts."""
    command: str
    """Command that starts the run."""
    notes: list[str]
    """Remarks for the user."""
    warnings: list[str] = []
    """Values that are allowed and rarely meant, each with its file, line and key, a reason, and a remedy."""

    @property
    def remarks(self) -> list[str]:
        """Warnings and notes."""
        return [*self.warnings, *self.notes]

    @property
    def equation(self) -> str:
        """The batch equation, for samples of full length."""
        groups = self.ranks // self.tensor_parallel
        who = "rank" if self.tensor_parallel == 1 else "tensor-parallel group"
        counts = {who: groups, "micro-batch": self.micro_batches, "sample": self.micro_samples}
        parts = " x ".join(plural(count, what) for what, count in counts.items())
        sign = "=" if groups * self.micro_batches * self.micro_samples == self.global_batch else "≤"
        return f"{self.global_batch} {sign} {parts}"


@dataclass(frozen=True)
class _Totals:
    """Amounts of the whole run; None: not known before the data is prepared."""

    steps: int | None
    samples: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    operations: float | None = None

    @classmethod
    def of(cls, recipe: Recipe, shape: Architecture, facts: Facts | None) -> "_Totals":
        """Return the totals of a recipe, from the facts about its data."""
        steps = steps_of(recipe, facts)
        samples = steps * recipe.train.global_batch if steps else None
        if facts is None or samples is None:
            return cls(steps, samples, epochs=recipe.train.epochs)
        of_sample = run_estimates.sample_operations(recipe, shape, facts)
        return cls(
            steps,
            samples,
            tokens=samples * facts.tokens["train"] // facts.samples["train"],
            epochs=samples / facts.samples["train"],
            operations=of_sample * samples if of_sample else None,
        )


def held_out(known: Facts) -> dict[str, int]:
    """Return the number of samples of each side that is not trained."""
    return {side: count for side, count in known.samples.items() if side != "train"}


def make(
    recipe: Recipe,
    cluster: Cluster,
    *,
    file: str,
    ranks: int | None = None,
    facts: Facts | None = None,
    prepared: Path | None = None,
    overrides: tuple[str, ...] = (),
    wrong: Sequence[str | Problem] = (),
    folder: RunDir | None = None,
    trains: bool = True,
    devices: Devices | None = None,
    document: Document | None = None,
    remarks: Sequence[str] = (),
) -> Plan:
    """Plan a run. Raises UserError with every mistake that can be found without starting anything.

    `wrong`: mistakes that were found before. `folder`: the run folder; None: the one that the recipe names. `trains`:
    whether the run continues in its folder; False: it is only evaluated. `devices`: of a node, if they are decided
    already. `document`: the recipe's keys with their lines, for the warnings. `remarks`: on how the recipe was loaded.
    """
    world = topology.world(cluster, ranks, devices)
    folder = folder or RunDir(paths.RUNS / recipe.name)
    if ranks and not cluster.scheduler.on_this_machine:
        wrong = [*wrong, "--ranks: is of one machine (nodes and devices_per_node of the cluster say how many)"]
    shape = checks.check(recipe, world, facts, folder if trains else None, wrong)
    known = facts or guess(recipe)
    total = _Totals.of(recipe, shape, facts)
    count, device = world.max_ranks, world.device
    micro_batches, micro_samples = layout.micro(recipe, count, known.longest)
    checkpoints, published = folder.whole(), peak_flops(world.devices.name, recipe.train.precision)
    return Plan(
        name=recipe.name, folder=str(folder.path), prepared=str(prepared) if prepared else None, model=shape.name,
        # where
        cluster=cluster.name, nodes=cluster.nodes[1], least_nodes=cluster.nodes[0], devices_per_node=world.per_node,
        ranks=count, device=device, threads=world.threads, max_restarts=cluster.max_restarts,
        tensor_parallel=recipe.tensor_parallel, strategy=recipe.strategy.kind, mesh=layout.mesh(recipe, count),
        # how much
        precision=recipe.train.precision, global_batch=recipe.train.global_batch, micro_batches=micro_batches,
        micro_samples=micro_samples, steps=total.steps, epochs=total.epochs, samples=total.samples,
        tokens=total.tokens, fill=padding_estimate.expected(recipe, known, count),
        documents=known.documents.get("train"), held_out=held_out(known), left_out=known.left_out,
        sources=_sources(recipe, facts, total.samples), labels=_labels(recipe, facts),
        # what it takes
        parameters=shape.parameters, trained=shape.trained, parts=shape.parts,
        memory=layout.needed(recipe, shape, known, count, device),
        memory_per_device=world.memory, checkpoint_bytes=memory.checkpoint(recipe, shape),
        copy_bytes=max(memory.copies(recipe, shape, world.per_node, size // world.per_node) for size in world.sizes),
        checkpoints_kept=recipe.checkpoint.keep, checkpoint_copy=memory.checkpoint_copy(recipe, shape, count),
        checkpoint_interval=run_estimates.checkpoint_interval(recipe, cluster), free_disk=free_bytes(folder.path),
        seconds_at_best=run_estimates.run_seconds(cluster, total.operations, count, published),
        predicted=step_work.of_world(recipe, shape, known, world),
        hours_between_failures=run_estimates.hours_between_failures(cluster),
        # what to do
        resume_from=checkpoints[-1].step if checkpoints else None,
        command=shlex.join(_command(cluster, file, world.per_node, overrides)),
        notes=[*remarks, *world.notes(), *notes.of(recipe, shape, folder, facts)],
        warnings=_warnings(warnings.of(recipe, shape, world, facts, total.steps), document) if trains else [],
    )  # fmt: skip


def _warnings(found: list[Problem], document: Document | None) -> list[str]:
    """Return warnings as text. Each begins with its place in the document, if there is one."""
    return [str(one) if document is None else document.located(one) for one in found]


def _labels(recipe: Recipe, facts: Facts | None) -> str:
    """Return the labels of the training data in one line; empty: not known yet, or the task has none."""
    task = plugins.task(recipe.inner_task)
    return "" if facts is None else str(task.describe_labels(recipe.inner_task, facts))


def _sources(recipe: Recipe, facts: Facts | None, samples: int | None) -> dict[str, tuple[float, float | None]]:
    """Return the share of the samples and the epochs of each source of a mixture; empty: no mixture."""
    shares = sample_order.weights(recipe.data.train)
    counts = facts.sources if facts else {}
    return {
        name: (share, samples * share / counts[name] if samples and counts.get(name) else None)
        for name, share in shares.items()
    }


def _command(cluster: Cluster, file: str, per_node: int, overrides: tuple[str, ...]) -> list[str]:
    """Return the words of the command that starts the run."""
    where = [] if cluster.reference == "local" else ["--cluster", cluster.reference]
    where += [word for name in trust.names_of_option() for word in ("--trust", name)]
    overrides = (*overrides, *cluster.overrides)
    if plugins.is_queued(cluster.scheduler):
        return ["launcher", "submit", *_named(file), *where, *overrides]
    many = ["--ranks", str(per_node)] if cluster.scheduler.on_this_machine else []
    return ["launcher", "run", *_named(file), *where, *many, *overrides]


def _named(file: str) -> list[str]:
    """Return the words that name a recipe: its file, or the bundle that it is part of."""
    folder, cache = Path(file).parent, paths.cache()
    bundled = (cache / paths.BUNDLE).is_file() and folder.resolve() == cache.resolve()
    return ["--from", str(folder)] if bundled else [file]
