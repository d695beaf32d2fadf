"""One rank: everything the loop needs, built from a run that is ready, in the order in which it depends on itself."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from launcher.config import plugins
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.recipe import Recipe
from launcher.contract import dropout
from launcher.contract.random import Stream, seed_for
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.shutdown import StopMonitor
from launcher.models._adaptation import ModelConfig, frozen
from launcher.models._transformers import save_configuration
from launcher.plan import layout, mixture, model_requirements, padding_probe, remote_code
from launcher.plan.facts import total_steps
from launcher.prepare import checkpoint_references, run_setup
from launcher.prepare.samples import Samples
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir, SavedCheckpoint
from launcher.strategies import UnwrappedModel
from launcher.tasks import _padding_side
from launcher.train import (
    attention_dropout_cost,
    checkpoint,
    compile_and_recompute,
    loop,
    model_probe,
    randomness_probe,
)
from launcher.train.data_loader import Batches, ProbeBatch, ProbeBatches, loader
from launcher.train.evaluation import Parts
from launcher.train.precision import STORED, LossScale, autocast
from launcher.train.sample_randomness import ModelRandomness


def build(
    run: run_setup.PreparedRun,
    at: ProcessGroup,
    stop: StopMonitor,
    resume: SavedCheckpoint | None,
    workers: int | None = None,
) -> tuple[loop.Run, list[str]]:
    """Everything the loop needs but its sinks, and notes for the user. `resume`: the checkpoint to go on from; its step
    decides which parameters train (see launcher.models._adaptation)."""
    recipe, facts = run.recipe, run.facts
    start = resume.step if resume else 0
    at = dataclasses.replace(at, tensor_parallel=recipe.tensor_parallel)
    task = plugins.task(recipe.task)(recipe.task, facts)
    batches, validation = _batches(run, task, at)
    model, notes = _model(recipe, run, at, start, weights=resume is None or not checkpoint_references.replaced(recipe))
    names = [name for name, _ in model.named_parameters()]
    probes = batches.probe_batches().to(at.device)
    example = probes.one.batch
    notes += task.attach(model, example)
    if not recipe.packed and at.broadcast(
        _padding_side.equal_lengths(task, model, model_requirements.of(recipe, facts))
    ):
        notes.append(padding_probe.note(type(model).__name__))
        batches = dataclasses.replace(batches, equal_lengths=True)
        validation = validation and dataclasses.replace(validation, equal_lengths=True)
        probes = batches.probe_batches().to(at.device)
    with autocast(recipe.train.precision, at.device):
        found = model_probe.run(model, task, example)
    whole = model_probe.loss(model, task, example) if at.tensor_parallel > 1 else 0.0
    notes += _freeze(model, found.unreached)
    randomness, told = _randomness(model, task, probes, recipe, at)
    notes += told
    if at.rank == 0:
        samples, length = layout.micro(recipe, at.world, facts.longest)[1], facts.longest
        notes += attention_dropout_cost.note(model, samples, length, recipe.train.precision, at.device)
    compile_and_recompute.dress(found.layers.values(), recipe.train, randomness)
    if not found.layers and (recipe.train.compile or recipe.train.checkpointed_every):
        notes.append("no layer of this model runs just once: compile and activation_checkpointing do nothing")
    bare = UnwrappedModel(model, found, recipe.optimizer, recipe.train.precision, at)
    engine = plugins.strategy(recipe.strategy).wrap(bare)
    _rehearse(engine, task, example, at, recipe)
    if at.tensor_parallel > 1:
        _compare(engine, task, example, at, whole)
        _find_shards(randomness, engine, task, probes.one)

    progress, changed = _progress(recipe, engine, resume, names)
    if changed and randomness.modules:
        notes.append(f"dropout is drawn by sample from step {start + 1} on, not as in the launcher that began the run")
    steps = total_steps(recipe, facts)
    count = _workers(recipe, at) if workers is None else workers
    pin = at.device.type != "cpu"
    built = loop.Run(
        recipe=recipe,
        folder=run.folder,
        process=at,
        task=task,
        engine=engine,
        randomness=randomness,
        batches=loader(batches, progress.step, steps, count, pin),
        validation=None if validation is None else loader(validation, 0, len(validation), count, pin),
        steps=steps,
        until=_until(recipe, progress.step, steps),
        data=facts.digest,
        progress=progress,
        sinks=[],
        stop=stop,
    )
    return built, notes


def _progress(
    recipe: Recipe, engine: Any, resume: SavedCheckpoint | None, names: list[str]
) -> tuple[loop.Progress, bool]:
    """How far the run is, with the engine in the state of its checkpoint; and whether the steps before were drawn by
    another definition of dropout. `names`: those of the parameters."""
    if resume is None:
        return loop.Progress(scale=LossScale.of(recipe.train.precision)), False
    state = engine.state_dict()
    thaws = resume.step == getattr(recipe.model, "unfreeze_at", None)
    thawed = (
        frozen(recipe.model, names) if thaws and isinstance(recipe.model, ModelConfig) else []
    )  # of these the checkpoint has no moments
    checkpoint.load(state, resume, new=tuple(f"optimizer.{name}." for name in thawed))
    engine.load_state_dict(state)
    progress = loop.Progress.of(resume.state, recipe.train.precision)
    if resume.state.get("metric") != recipe.evaluate.metric:  # another one is watched from here on
        progress.history = []
    return progress, resume.state.get("draws") != dropout.VERSION


def _until(recipe: Recipe, step: int, steps: int) -> int:
    """The step at which other parameters begin to train, or the last."""
    thaw = getattr(recipe.model, "unfreeze_at", None)
    return thaw if thaw is not None and step < thaw < steps else steps


def _freeze(model: torch.nn.Module, unreached: list[str]) -> list[str]:
    """Take the parameters that the loss does not depend on out of training (poolers, contact heads). No strategy waits
    for their gradients then, and no optimiser decays them."""
    for name in unreached:
        model.get_parameter(name).requires_grad_(False)
    if not unreached:
        return []
    some = ", ".join(unreached[:3]) + (f" and {len(unreached) - 3} more" if len(unreached) > 3 else "")
    return [f"{len(unreached)} parameters take no part in the loss and stay as they are: {some}"]


def _randomness(
    model: torch.nn.Module, task: Any, probes: ProbeBatches, recipe: Recipe, at: ProcessGroup
) -> tuple[ModelRandomness, list[str]]:
    """Have the model draw by the contract. Raises UserError where it cannot, under a strict contract; else a note says
    what depends on the layout."""
    made = randomness_probe.take_over(model, lambda batch: task.loss(model, batch)[0], probes, recipe.train.precision)
    made.tensor_parallel, made.tensor_parallel_rank = at.tensor_parallel, at.rank % at.tensor_parallel
    if not made.unreproducible:
        return made, []
    what = "; ".join(made.unreproducible)
    if recipe.train.strict_contract:
        advice = "train.strict_contract: false trains it all the same"
        raise UserError(Problem("train.strict_contract", f"{what}: ranks and micro-batches change the run ({advice})"))
    return made, [f"{what}: so the run depends on its ranks and micro-batches (train.strict_contract refuses this)"]


def _find_shards(randomness: ModelRandomness, engine: Any, task: Any, one: ProbeBatch) -> None:
    """Run a forward in which each draw learns of which axes a tensor-parallel rank has a part."""
    randomness.finding_shards = True
    with torch.no_grad(), randomness.drawing(one.rows), engine.accumulating(last=True) as model:
        task.loss(model, one.batch)
    randomness.finding_shards = False


def _rehearse(engine: Any, task: Any, example: dict[str, Any], at: ProcessGroup, recipe: Recipe) -> None:
    """Backwards whose gradients are dropped. DDP orders its buckets by the first that it sees; after these a resumed
    run reduces in the order of the run that was never stopped, to the last bit."""
    engine.module.eval()
    for _ in range(engine.rehearsals):
        with engine.accumulating(last=True) as model:
            with autocast(recipe.train.precision, at.device):
                loss, _ = task.loss(model, example)
            engine.backward(loss)
        engine.clear()
    engine.module.train()


def _compare(engine: Any, task: Any, example: dict[str, Any], at: ProcessGroup, expected: float) -> None:
    """Raises UserError where a model dealt over ranks does not compute what the whole one did, nor its gradients: found
    by trying, in the precision that parameters are stored in."""
    engine.module.eval()
    try:
        with engine.accumulating(last=True) as model:
            loss, _ = task.loss(model, example)
            engine.backward(loss)
    except (RuntimeError, ValueError, TypeError) as error:
        what = f"{type(engine.module).__name__} cannot be dealt over ranks: {first_line(error)[:200]} (take 1)"
        raise UserError(Problem("strategy.tensor_parallel", what)) from None
    partial = engine.partial(at)
    engine.clear()
    engine.module.train()
    if partial:
        what = f"{', '.join(partial[:3])} would get a part of its gradient on each rank (take 1)"
        raise UserError(Problem("strategy.tensor_parallel", what))
    if not abs(float(loss.detach()) - expected) <= 1e-4 * max(1.0, abs(expected)):
        what = f"the loss of a sample is {float(loss.detach()):.6f} dealt over ranks and {expected:.6f} whole (take 1)"
        raise UserError(Problem("strategy.tensor_parallel", what))


def _batches(run: run_setup.PreparedRun, task: Any, at: ProcessGroup) -> tuple[Batches, Parts | None]:
    """The global batches of training, and the validation samples; this rank's part of them."""
    recipe, facts = run.recipe, run.facts
    place = at.data_parallel_rank, at.data_parallel_size
    training = Batches(
        Samples(run.prepared, "train"), mixture.order(recipe, facts), task, recipe.train.global_batch, recipe.seed,
        Stream.MASK, *place, recipe.train.max_tokens, recipe.data.max_length if recipe.packed else None,
        total_steps(recipe, facts),
    )  # fmt: skip
    if "validation" not in facts.samples:
        return training, None
    held = Samples(run.prepared, "validation")
    return training, Parts(held, task, recipe.seed, *place, recipe.train.max_tokens, recipe.packed)


def _model(
    recipe: Recipe, run: run_setup.PreparedRun, at: ProcessGroup, step: int, weights: bool
) -> tuple[torch.nn.Module, list[str]]:
    torch.manual_seed(seed_for(recipe.seed, Stream.INIT, 0))
    wanted = model_requirements.of(recipe, run.facts)
    config = recipe.model.at(step) if hasattr(recipe.model, "at") else recipe.model
    model, notes = plugins.model(config).build(wanted, weights)
    if at.rank == 0 and hasattr(getattr(model, "config", None), "save_pretrained") and not run.folder.model.is_dir():
        _save_configuration(model, config, run.folder)
    return model.to(device=at.device, dtype=STORED[recipe.train.precision]).train(), notes


def _save_configuration(model: torch.nn.Module, config: Any, folder: RunDir) -> None:
    """Write RUN/model, with the code that it names where that is trusted: a run is loaded without its source."""
    aside = folder.path / ".model.partial"
    save_configuration(model, aside)
    if getattr(config, "trust_remote_code", False):
        run = getattr(config, "run", None)
        source = Path(cache_root.found(run), "model") if run else Path(cache_root.found(config.name, config.revision))
        remote_code.copy_code(source, aside)
    aside.rename(folder.model)


def _workers(recipe: Recipe, at: ProcessGroup) -> int:
    """Loader processes of a rank: on a CPU they would only take its cores."""
    if recipe.train.workers == "auto":
        return 0 if at.device.type == "cpu" else 2
    return recipe.train.workers
