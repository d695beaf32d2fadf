"""recipe x cluster -> Plan: every number decided, every mistake found, nothing started."""

import math
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from launcher.config import kinds
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Fraction, PretrainedTokenizer, Recipe
from launcher.config.types import Strict, hint
from launcher.plan import architecture, devices, expect, fill, layout, limits, memory, mixture, need, store, vocabulary
from launcher.plan.facts import Facts
from launcher.plan.folder import RunFolder

RUNS = Path("runs")
_BY_CLASS = ("precision", "recall", "f1")


class Plan(Strict):
    """Bytes are bytes. `samples` and `tokens` are those of the whole run; None: not known before `launcher prepare`.
    `ranks`: of all `nodes`; an elastic run goes on with `least_nodes`. `threads`: of a rank, where known.
    `micro_samples`: the most samples of full length in a micro-batch; `micro_batches`: how many a rank makes. `fill`:
    the expected share of computed positions that are tokens. `sources`: of a mixture, each one's share of the samples
    and the epochs it is gone through; `left_out`: rows of the corpus that gave no sample, by reason. `seconds_at_best`:
    of the whole run, by the cluster's figures."""

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
    sources: dict[str, tuple[float, float | None]] = {}
    model: str
    parameters: int
    memory: dict[str, int]
    memory_per_device: int
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
    found = devices.find(cluster)
    least, nodes = cluster.nodes
    cores = devices.cores_of_a_node(cluster)
    per_node = ranks or devices.count(cluster)
    count = nodes * per_node
    folder = RunFolder(RUNS / recipe.name)
    per_device = found.memory // (per_node if found.kind == "cpu" else 1)
    if ranks and cluster.kind != "local":
        wrong = [
            *wrong,
            "--ranks: is of one machine (nodes and devices_per_node of the cluster say how many)",
        ]
    wrong = [*wrong, *_problems(recipe, cluster, per_node, found, facts)]
    shape = _checked(recipe, facts, folder, least * per_node, per_device, found.kind, wrong)
    known = facts or guess(recipe)
    steps = _steps(recipe, facts)
    micro_batches, micro_samples = layout.micro(recipe, count, known.longest)
    whole = folder.whole()
    samples = steps * recipe.train.global_batch if steps else None
    tokens = samples * facts.tokens["train"] // facts.samples["train"] if samples and facts else None
    at_best = expect.step_seconds(cluster, shape.parameters, tokens / steps, count) if tokens and steps else None
    return Plan(
        name=recipe.name,
        folder=str(folder.path),
        prepared=str(prepared) if prepared else None,
        cluster=cluster.name,
        nodes=nodes,
        least_nodes=least,
        devices_per_node=per_node,
        ranks=count,
        tensor_parallel=recipe.tensor_parallel,
        device=found.kind,
        threads=max(1, cores // per_node) if cores else None,
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
        fill=fill.expected(recipe, known, count),
        documents=known.documents.get("train"),
        left_out=known.left_out,
        sources=_sources(recipe, facts, samples),
        model=shape.name,
        parameters=shape.parameters,
        memory=layout.needed(recipe, shape, known, count, found.kind),
        memory_per_device=per_device,
        checkpoint_bytes=memory.checkpoint(recipe, shape),
        checkpoints_kept=recipe.checkpoint.keep,
        free_disk=free_bytes(folder.path),
        seconds_at_best=at_best * steps if at_best is not None and steps else None,
        hours_between_failures=expect.hours_between_failures(cluster),
        resume_from=whole[-1].step if whole else None,
        max_restarts=cluster.max_restarts,
        command=shlex.join(_command(cluster, file, per_node, overrides)),
        notes=[*_notes(recipe, shape, folder), *known.notes],
    )


def _checked(
    recipe: Recipe,
    facts: Facts | None,
    folder: RunFolder,
    ranks: int,
    there: int,
    device: str,
    problems: list[str | Problem],
) -> architecture.Architecture:
    """The architecture of the recipe's model. Raises UserError with the problems given, and those found here. `there`:
    bytes of memory of a device."""
    shape, known = None, facts or guess(recipe)
    try:
        shape = architecture.count(recipe, need.of(recipe, known))
    except UserError as error:
        problems += error.problems
    if shape is not None:
        problems += layout.refusals(recipe, shape)
    if shape is not None and shape.packs:
        problems.append(Problem("task.samples", f"{shape.packs} (take documents)"))
    if shape is not None and not problems:
        size = sum(layout.needed(recipe, shape, known, ranks, device).values())
        if size > there:
            what = f"about {human(size)} of {human(there)} a device: does not fit"
            advice = layout.nearest(recipe, shape, known, ranks, there, device)
            problems.append(Problem("strategy", f"{what} ({advice}; memory_per_device of the cluster overrides it)"))
    try:
        folder.check_recipe(recipe)
    except UserError as error:
        problems += error.problems
    size, free = memory.checkpoint(recipe, shape) if shape else 0, free_bytes(folder.path)
    if size > free:
        what = f"a checkpoint takes {human(size)}, {human(free)} are free at {folder.checkpoints} (make room there)"
        problems.append(Problem("checkpoint", what))
    if problems or shape is None:
        raise UserError(problems)
    return shape


def _notes(recipe: Recipe, shape: architecture.Architecture, folder: RunFolder) -> list[str]:
    """What the user should know and may go on with."""
    notes = [f"{p}: half-written, never looked at (the next save replaces it)" for p in folder.half_written()]
    size, most, free = memory.checkpoint(recipe, shape), recipe.checkpoint.keep + 1, free_bytes(folder.path)
    if size * most > free:  # one more than is kept, while the newest is being written
        notes.append(f"checkpoint: {most} of {human(size)} do not fit into the {human(free)} that are free")
    if recipe.packed and shape.packs is None:
        notes.append(f"task.samples: whether {shape.name} takes packed rows is tried when the run starts")
    return notes


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
    where = [] if cluster.given == "local" else ["--cluster", cluster.given]
    overrides = (*overrides, *cluster.overrides)
    if cluster.kind == "slurm":
        return ["launcher", "submit", *_named(file), *where, *overrides]
    many = ["--ranks", str(per_node)] if cluster.kind == "local" else []
    return ["launcher", "run", *_named(file), *where, *many, *overrides]


def _named(file: str) -> list[str]:
    """The recipe of a bundle goes by the bundle."""
    bundled = (store.root() / store.BUNDLE).is_file() and Path(file).resolve().parent == store.root().resolve()
    return ["--from", str(Path(file).parent)] if bundled else [file]


def _unwatchable(recipe: Recipe, facts: Facts | None) -> list[str | Problem]:
    """What evaluations are needed for that are not made, and metrics that the task does not have."""
    evaluate, out = recipe.evaluate, list[str | Problem]()
    if recipe.data.validation is None and (evaluate.every or evaluate.at_start or evaluate.patience):
        out.append(Problem("evaluate", "there is nothing to evaluate on (add data.validation)"))
    steered = {"evaluate.patience": evaluate.patience, "schedule": recipe.schedule.kind == "plateau"}
    for key, needed in steered.items():
        if needed and not evaluate.every:
            out.append(Problem(key, "goes by evaluations, and only the last step is evaluated (set evaluate.every)"))
    metrics = kinds.of("tasks", recipe.task).Task(recipe.task, facts or guess(recipe)).directions()
    score, _, label = evaluate.metric.partition("/")
    if score not in metrics or (label and score not in _BY_CLASS):
        what = f"{recipe.task.kind} has no metric {evaluate.metric!r} ({hint(evaluate.metric, metrics)})"
        out.append(Problem("evaluate.metric", what))
    elif label and facts and label not in (there := {part for name in facts.labels for part in (name, name[2:])}):
        out.append(Problem("evaluate.metric", f"no label is called {label!r} ({hint(label, there)})"))
    return out


def guess(recipe: Recipe) -> Facts:
    """What stands in for the facts before the data is prepared: the vocabulary as far as it is known, two labels, and
    for a task without tokens a shape that its samples may have."""
    task = kinds.of("tasks", recipe.inner_task).Task
    vocab, shape = (vocabulary.size(recipe), ()) if task.tokenized else (0, task.shape(recipe.inner_task))
    return Facts(
        digest="", vocab_size=vocab, pad_token_id=0, mask_token_id=0, special_ids=[], labels=["0", "1"],
        longest=recipe.data.max_length if not shape else 1, samples={}, tokens={}, baseline={}, shape=shape,
    )  # fmt: skip


def total_steps(recipe: Recipe, facts: Facts) -> int:
    """Optimiser steps of the run; `epochs` only sets their number."""
    if recipe.train.steps is not None:
        return recipe.train.steps
    assert recipe.train.epochs is not None
    return max(1, math.ceil(recipe.train.epochs * facts.samples["train"] / recipe.train.global_batch))


def free_bytes(path: Path) -> int:
    """Free disk where `path` is or will be."""
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free


def plural(count: int, what: str) -> str:
    """'1 rank', '2 ranks', '3 micro-batches'."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("ch") else "s")


def human(size: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _steps(recipe: Recipe, facts: Facts | None) -> int | None:
    return total_steps(recipe, facts) if facts else recipe.train.steps


def _problems(
    recipe: Recipe, cluster: Cluster, per_node: int, found: devices.Devices, facts: Facts | None
) -> list[str | Problem]:
    """Mistakes that only show where keys meet."""
    train, out = recipe.train, list[str | Problem]()
    sizes = sorted({nodes * per_node for nodes in range(cluster.nodes[0], cluster.nodes[1] + 1)})
    ranks = sizes[-1]
    if train.global_batch < (shares := max(1, ranks // recipe.tensor_parallel)):
        what = f"{train.global_batch} samples cannot be shared by {shares} ranks"
        out.append(Problem("train.global_batch", f"{what} (at least one each: fewer ranks, or a larger batch)"))
    tokenized = kinds.of("tasks", recipe.inner_task).Task.tokenized
    if tokenized and train.max_tokens is not None and train.max_tokens < recipe.data.max_length:
        longest = f"data.max_length is {recipe.data.max_length}"
        what = f"{train.max_tokens} is below one sample ({longest}: at least that, or shorter samples)"
        out.append(Problem("train.max_tokens", what))
    if misfit := devices.misfit(cluster, found, per_node):
        out.append(misfit)
    if train.precision == "fp16" and train.loss_scale == "none":
        what = "fp16 without a loss scale: gradients below 6e-8 would be lost (leave it out, or take precision: bf16)"
        out.append(Problem("train.loss_scale", what))
    if (stride := getattr(recipe.inner_task, "stride", 0) or 0) > recipe.data.max_length // 2:
        what = f"{stride} of {recipe.data.max_length} tokens: most of a sample would be the one before it again"
        out.append(Problem("task.stride", f"{what} (at most {recipe.data.max_length // 2})"))
    if recipe.tokenizer is not None and not tokenized:
        out.append(Problem("tokenizer", f"{recipe.task.kind} has no text to tokenise (leave it out)"))
    thaw, steps = getattr(recipe.model, "unfreeze_at", None), _steps(recipe, facts)
    if thaw is not None and steps is not None and thaw >= steps:
        out.append(
            Problem("model.unfreeze_at", f"{thaw}, but the run ends after {steps} steps (earlier, or leave it out)")
        )
    out += _unwatchable(recipe, facts)
    out += limits.problems(recipe, cluster)
    out += next(filter(None, (layout.misfits(recipe, size) for size in sizes)), [])
    if isinstance(recipe.data.validation, Fraction) and recipe.data.validation.fraction > 0.5:
        out.append(Problem("data.validation.fraction", "more than half of the data would be held out"))
    if isinstance(recipe.tokenizer, PretrainedTokenizer) and recipe.tokenizer.name.startswith((".", "/")):
        folder = Path(recipe.tokenizer.name).expanduser()
        if not folder.is_dir():
            out.append(Problem("tokenizer.name", f"{folder}: no such folder"))
    return out
