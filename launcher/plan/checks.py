"""Find contradictions between keys, and between the recipe and the devices or the disk, before anything starts."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from launcher.config import env_vars, plugins
from launcher.config.atomic_files import free_bytes, is_dir
from launcher.config.base_model import hint
from launcher.config.cluster import Cluster
from launcher.config.errors import Problem, UserError
from launcher.config.format import human
from launcher.config.recipe import Fraction, Recipe, Share
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.plan import attention_kernels, facts, layout, memory, model_requirements, model_spec
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.plan.topology import World
from launcher.storage import cache_root, memory_folder
from launcher.storage.run_dir import RunDir

_BY_CLASS = ("precision", "recall", "f1")
Found = list[str | Problem]


def check(
    recipe: Recipe, world: World, known: Facts | None, folder: RunDir | None, wrong: Sequence[str | Problem]
) -> Architecture:
    """Find every mistake that can be found without a start. Returns the architecture of the model.

    `known`: facts of prepared data. `folder`: folder to train in; None: an evaluation. `wrong`: mistakes that were
    found before. Raises UserError with all mistakes.
    """
    problems = [
        *wrong, *world.problems(), *_precision(recipe, world), *_batch(recipe, world), *_evaluation(recipe, known),
        *_text(recipe), *_training(recipe, known), *world.cluster.scheduler.problems(recipe, world.cluster),
        *_passed_on(world.cluster), *_sink_packages(recipe, world),
        *attention_kernels.problems(recipe, world, trains=folder is not None),
        *next(filter(None, (layout.misfits(recipe, size) for size in world.sizes)), []),
    ]  # fmt: skip
    shape, assumed = None, known or facts.guess(recipe)
    try:
        shape = model_spec.count(recipe, model_requirements.of(recipe, assumed))
        problems += _model(recipe, shape)
        if not problems:
            problems += _memory(recipe, shape, assumed, world)
        if folder is not None:
            problems += [*_disk(recipe, shape, folder), *_memory_copies(recipe, shape, world, folder)]
    except UserError as error:
        problems += error.problems
    if folder is not None:
        problems += _resumed_files(recipe, folder, mistaken=bool(problems))
    if problems or shape is None:
        raise UserError(problems)
    return shape


def _passed_on(cluster: Cluster) -> Found:
    """Return a mistake for each variable of `env_from` that is not set."""
    missing = [name for name in cluster.env_from if name not in os.environ]
    advice = "export it before this command, or take it out"
    return [f"{cluster.place('env_from')}: {name} is not set here ({advice})" for name in missing]


def _sink_packages(recipe: Recipe, world: World) -> Found:
    """Return a mistake for each sink whose package is not installed. The packages of other machines are not known."""
    if not world.cluster.scheduler.on_this_machine:
        return []
    missing = [sink.kind for sink in recipe.sinks if not all(map(find_spec, sink.optional_modules))]
    return [
        Problem("sinks", f"{kind} is not installed (pip install 'launcher[{kind}]', or leave it out)")
        for kind in missing
    ]


def _resumed_files(recipe: Recipe, folder: RunDir, mistaken: bool) -> Found:
    """Return damage in a run folder, and a mistake if another recipe has trained in it.

    `mistaken`: the recipe has a mistake, so that it cannot be compared.
    """
    out, file_checks = Found(), list[Callable[[], None]]()
    if not mistaken:
        file_checks.append(partial(folder.check_recipe, recipe))
    for file_check in [*file_checks, folder.check_files]:
        try:
            file_check()
        except UserError as error:
            out += error.problems
    return out


def _batch(recipe: Recipe, world: World) -> Found:
    """Return mistakes if the global batch, or the budget of tokens, is too small for the ranks."""
    train, out = recipe.train, Found()
    if train.global_batch < (shares := max(1, world.sizes[-1] // recipe.tensor_parallel)):
        what = f"{train.global_batch} samples cannot be shared by {shares} ranks"
        out.append(Problem("train.global_batch", f"{what} (at least one each: fewer ranks, or a larger batch)"))
    if _tokenized(recipe) and train.max_tokens is not None and train.max_tokens < recipe.data.max_length:
        longest = f"data.max_length is {recipe.data.max_length}"
        what = f"{train.max_tokens} is below one sample ({longest}: at least that, or shorter samples)"
        out.append(Problem("train.max_tokens", what))
    return out


def _text(recipe: Recipe) -> Found:
    """Return mistakes in the overlap of samples and in the tokenizer."""
    out = Found()
    if (stride := recipe.inner_task.overlap) > recipe.data.max_length // 2:
        what = f"{stride} of {recipe.data.max_length} tokens: most of a sample would be the one before it again"
        out.append(Problem("task.stride", f"{what} (at most {recipe.data.max_length // 2})"))
    if recipe.tokenizer is not None and not _tokenized(recipe):
        out.append(Problem("tokenizer", f"{recipe.task.kind} has no text to tokenise (leave it out)"))
    name = recipe.tokenizer.name if isinstance(recipe.tokenizer, PretrainedTokenizer) else ""
    if name.startswith((".", "/")) and not is_dir(Path(cache_root.found(name))):  # a bundle has a copy of it
        out.append(Problem("tokenizer.name", f"{name}: no such folder"))
    return out


def _training(recipe: Recipe, known: Facts | None) -> Found:
    """Return contradictions between keys of training: precision, unfreezing, held-out data."""
    train, out = recipe.train, Found()
    if train.precision == "fp16" and train.loss_scale == "none":
        what = "fp16 without a loss scale: gradients below 6e-8 would be lost (leave it out, or take precision: bf16)"
        out.append(Problem("train.loss_scale", what))
    unfreeze_at, steps = recipe.model.unfreeze_at, facts.steps_of(recipe, known)
    if unfreeze_at is not None and steps is not None and unfreeze_at >= steps:
        what = f"{unfreeze_at}, but the run ends after {steps} steps (earlier, or leave it out)"
        out.append(Problem("model.unfreeze_at", what))
    if train.padding_free is True and (reason := _padding_free_error(recipe)):
        out.append(Problem("train.padding_free", f"{reason} (take auto)"))
    return [*out, *_held_out(recipe)]


def _held_out(recipe: Recipe) -> Found:
    """Return mistakes about validation, test and folds."""
    data, out = recipe.data, Found()
    if isinstance(data.validation, Fraction) and data.validation.fraction > 0.5:
        out.append(Problem("data.validation.fraction", "more than half of the data would be held out"))
    if isinstance(data.test, Share) and data.test.fraction > 0.5:
        out.append(Problem("data.test.fraction", "more than half of the data would be held out"))
    if data.folds is not None:
        one = f"data.folds=null data.validation='{{fold: 0, of: {data.folds}}}'"
        out.append(Problem("data.folds", f"only `launcher run` trains all folds (one fold: {one})"))
    return out


def _precision(recipe: Recipe, world: World) -> Found:
    """Return a mistake if a device cannot compute in the recipe's precision."""
    what = world.precision_problem(recipe.train.precision)
    return [Problem("train.precision", what)] if what else []


def _padding_free_error(recipe: Recipe) -> str:
    """Return why rows of a recipe need padding, whatever its model; empty: they may not."""
    if not plugins.task(recipe.task).padding_free:
        return f"{recipe.task.kind} takes no rows without padding"
    return "train.compile would compile the layers again for other lengths" if recipe.train.compile else ""


def _evaluation(recipe: Recipe, known: Facts | None) -> Found:
    """Return mistakes for features whose evaluations do not run, and for a metric that the task does not have."""
    evaluate, out = recipe.evaluate, Found()
    if recipe.data.validation is None and (evaluate.every or evaluate.at_start or evaluate.patience):
        out.append(Problem("evaluate", "there is nothing to evaluate on (add data.validation)"))
    dependent = {"evaluate.patience": evaluate.patience, "schedule": recipe.schedule.uses_evaluations}
    for key, needed in dependent.items():
        if needed and not evaluate.every:
            out.append(Problem(key, "goes by evaluations, and only the last step is evaluated (set evaluate.every)"))
    metrics = plugins.task(recipe.task)(recipe.task, known or facts.guess(recipe)).directions()
    score, _, label = evaluate.metric.partition("/")
    if known is None:  # it is not known yet whether labels are entity tags
        metrics = {**metrics, **{name.removeprefix("macro_"): way for name, way in metrics.items()}}
    of_all = {score, f"macro_{score}"} if label else {score}
    if not of_all & metrics.keys() or (label and score not in _BY_CLASS):
        what = f"{recipe.task.kind} has no metric {evaluate.metric!r} ({hint(evaluate.metric, metrics)})"
        out.append(Problem("evaluate.metric", what))
    elif (
        label and known and label not in (known_labels := {part for name in known.labels for part in (name, name[2:])})
    ):
        out.append(Problem("evaluate.metric", f"no label is called {label!r} ({hint(label, known_labels)})"))
    return out


def _model(recipe: Recipe, shape: Architecture) -> Found:
    """Return mistakes for features that the model or the strategy does not support."""
    packed = [Problem("task.samples", f"{shape.packs} (take documents)")] if shape.packs else []
    return [*layout.refusals(recipe, shape), *packed]


def _memory(recipe: Recipe, shape: Architecture, assumed: Facts, world: World) -> Found:
    """Return a mistake if a rank needs more memory than a device has; empty: it fits.

    An elastic run has to fit on its minimum number of nodes.
    """
    ranks, device, available = world.sizes[0], world.devices.kind, world.memory
    size = sum(layout.needed(recipe, shape, assumed, ranks, device).values())
    if available is None or size <= available:
        return []
    what = f"about {human(size)} of {human(available)} a device: does not fit"
    advice = layout.nearest(recipe, shape, assumed, ranks, available, device)
    return [Problem("strategy", f"{what} ({advice}; memory_per_device of the cluster overrides it)")]


def _disk(recipe: Recipe, shape: Architecture, folder: RunDir) -> Found:
    """Return a mistake if there is no space for a checkpoint; empty: there is."""
    size = memory.checkpoint(recipe, shape)
    free = free_bytes(folder.path) + folder.reclaimable_bytes(recipe.checkpoint)
    if size <= free:
        return []
    what = f"a checkpoint takes {human(size)}, {human(free)} are free at {folder.checkpoints}"
    older = folder.whole()[:-1]
    advice = f"make room there, or move {older[0].path.name} elsewhere" if older else "make room there"
    return [Problem("checkpoint", f"{what} ({advice})")]


def _memory_copies(recipe: Recipe, shape: Architecture, world: World, folder: RunDir) -> Found:
    """Return a mistake if the copies in memory do not fit into this machine; empty: they fit, or run elsewhere."""
    if recipe.checkpoint.memory is None or not world.cluster.scheduler.on_this_machine:
        return []
    root = memory_folder.root()
    if not root.is_dir():
        advice = f"{env_vars.MEMORY} names a folder of a tmpfs, or leave it out"
        return [Problem("checkpoint.memory", f"{root}: no such folder for copies in memory ({advice})")]
    needed = memory.copies(recipe, shape, world.per_node, 1)
    free = free_bytes(root) + memory_folder.used_by(folder)
    what = memory_folder.misfit(needed, free, psutil.virtual_memory().total)
    return [Problem("checkpoint.memory", what)] if what else []


def _tokenized(recipe: Recipe) -> bool:
    """Return whether samples are texts."""
    return bool(plugins.task(recipe.inner_task).tokenized)
