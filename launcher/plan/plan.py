"""recipe x cluster -> Plan: every number decided, every mistake found, nothing started."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from launcher.config import code_origin, kinds, plugins
from launcher.config.atomic_files import free_bytes
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.config.types import Strict
from launcher.plan import checks, layout, memory, mixture, notes, padding_estimate, run_estimates, topology
from launcher.plan.facts import Facts, guess, steps_of
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir

RUNS = code_origin.RUNS


class Plan(Strict):
    """Bytes are bytes. `samples` and `tokens` are those of the whole run; None: not known before `launcher prepare`.
    `ranks`: of all `nodes`; an elastic run goes on with `least_nodes`. `threads`: of a rank, where known.
    `micro_samples`: the most samples of full length in a micro-batch; `micro_batches`: how many a rank makes. `fill`:
    the expected share of computed positions that are tokens. `sources`: of a mixture, each one's share of the samples
    and the epochs it is gone through; `left_out`: rows of the corpus that gave no sample, by reason. `labels`: those of
    the training data and their counts. `seconds_at_best`: of the whole run, arithmetic alone, by the cluster's
    figures."""

    name: str
    folder: str
    prepared: str | None
    cluster: str = "local"
    nodes: int
    least_nodes: int = 1
    devices_per_node: int = 1
    ranks: int
    tensor_parallel: int
    device: str
    threads: int | None
    strategy: str
    mesh: dict[str, int] = {}
    precision: str
    global_batch: int
    micro_batches: int
    micro_samples: int
    steps: int | None
    epochs: float | None
    samples: int | None
    tokens: int | None
    fill: float | None = None
    documents: int | None = None
    left_out: dict[str, int] = {}
    labels: str = ""
    sources: dict[str, tuple[float, float | None]] = {}
    model: str
    parameters: int
    memory: dict[str, int]
    memory_per_device: int | None
    checkpoint_bytes: int
    checkpoints_kept: int
    free_disk: int
    seconds_at_best: float | None = None
    hours_between_failures: float | None = None
    resume_from: int | None
    max_restarts: int
    command: str
    notes: list[str]

    @property
    def equation(self) -> str:
        """The batch equation, for samples of full length."""
        groups = self.ranks // self.tensor_parallel
        who = "rank" if self.tensor_parallel == 1 else "tensor-parallel group"
        counts = {who: groups, "micro-batch": self.micro_batches, "sample": self.micro_samples}
        parts = " x ".join(plural(count, what) for what, count in counts.items())
        sign = "=" if groups * self.micro_batches * self.micro_samples == self.global_batch else "≤"
        return f"{self.global_batch} {sign} {parts}"


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
) -> Plan:
    """The plan of a run. Raises UserError with every mistake that can be found without starting anything; `wrong`:
    those that have been found already."""
    world, folder = topology.world(cluster, ranks), RunDir(RUNS / recipe.name)
    (least, nodes), device, count = cluster.nodes, world.devices.kind, world.sizes[-1]
    if ranks and not cluster.scheduler.on_this_machine:
        wrong = [*wrong, "--ranks: is of one machine (nodes and devices_per_node of the cluster say how many)"]
    shape = checks.check(recipe, world, facts, folder, wrong)
    known, steps = facts or guess(recipe), steps_of(recipe, facts)
    micro_batches, micro_samples = layout.micro(recipe, count, known.longest)
    whole = folder.whole()
    samples = steps * recipe.train.global_batch if steps else None
    tokens = samples * facts.tokens["train"] // facts.samples["train"] if samples and facts else None
    operations = run_estimates.sample_operations(recipe, shape, facts) if samples and facts else None
    return Plan(
        name=recipe.name,
        folder=str(folder.path),
        prepared=str(prepared) if prepared else None,
        cluster=cluster.name,
        nodes=nodes,
        least_nodes=least,
        devices_per_node=world.per_node,
        ranks=count,
        tensor_parallel=recipe.tensor_parallel,
        device=device,
        threads=world.threads,
        strategy=recipe.strategy.kind,
        mesh=layout.mesh(recipe, count),
        precision=recipe.train.precision,
        global_batch=recipe.train.global_batch,
        micro_batches=micro_batches,
        micro_samples=micro_samples,
        steps=steps,
        epochs=samples / facts.samples["train"] if samples and facts else recipe.train.epochs,
        samples=samples,
        tokens=tokens,
        fill=padding_estimate.expected(recipe, known, count),
        documents=known.documents.get("train"),
        left_out=known.left_out,
        sources=_sources(recipe, facts, samples),
        model=shape.name,
        parameters=shape.parameters,
        memory=layout.needed(recipe, shape, known, count, device),
        memory_per_device=world.memory,
        checkpoint_bytes=memory.checkpoint(recipe, shape),
        checkpoints_kept=recipe.checkpoint.keep,
        free_disk=free_bytes(folder.path),
        seconds_at_best=run_estimates.run_seconds(cluster, operations * samples, count)
        if operations and samples
        else None,
        hours_between_failures=run_estimates.hours_between_failures(cluster),
        resume_from=whole[-1].step if whole else None,
        max_restarts=cluster.max_restarts,
        command=shlex.join(_command(cluster, file, world.per_node, overrides)),
        labels=_labels(recipe, facts),
        notes=notes.of(recipe, shape, folder, facts, steps),
    )


def _labels(recipe: Recipe, facts: Facts | None) -> str:
    """The labels of the training data in one line, where they are known and the task has any."""
    task = plugins.task(recipe.inner_task)
    return "" if facts is None else str(task.describe_labels(recipe.inner_task, facts))


def _sources(recipe: Recipe, facts: Facts | None, samples: int | None) -> dict[str, tuple[float, float | None]]:
    """Each source of a mixture: its share of the samples, and its epochs."""
    shares = mixture.weights(recipe.data.train)
    counts = facts.sources if facts else {}
    return {
        name: (share, samples * share / counts[name] if samples and counts.get(name) else None)
        for name, share in shares.items()
    }


def _command(cluster: Cluster, file: str, per_node: int, overrides: tuple[str, ...]) -> list[str]:
    """What starts the run."""
    where = [] if cluster.reference == "local" else ["--cluster", cluster.reference]
    where += [word for name in kinds.given() for word in ("--trust", name)]
    overrides = (*overrides, *cluster.overrides)
    if cluster.scheduler.queued:
        return ["launcher", "submit", *_named(file), *where, *overrides]
    many = ["--ranks", str(per_node)] if cluster.scheduler.on_this_machine else []
    return ["launcher", "run", *_named(file), *where, *many, *overrides]


def _named(file: str) -> list[str]:
    """The recipe of a bundle goes by the bundle."""
    bundled = (cache_root.root() / cache_root.BUNDLE).is_file() and Path(
        file
    ).resolve().parent == cache_root.root().resolve()
    return ["--from", str(Path(file).parent)] if bundled else [file]
