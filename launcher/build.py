"""Building of everything that the training loop of one rank needs, from a prepared run."""

import dataclasses
from datetime import timedelta

import torch

from launcher.config import plugins
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.contract import dropout
from launcher.contract.random import Stream, seed_for
from launcher.distributed import rank_device
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.models import _run_configuration
from launcher.models._adaptation import frozen
from launcher.plan import checkpoint_interval, layout, model_requirements, padding_probe, sample_order
from launcher.plan.facts import Facts, total_steps
from launcher.prepare import checkpoint_references, run_setup, separate_test
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.storage import roll_backs, token_limit
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.strategies import Engine, EngineParts, _split_model_check
from launcher.tasks import Batch, Task, _model_probes, _padded_attention, _token_batches
from launcher.train import (
    attention_dropout_cost,
    checkpoint,
    compile_and_recompute,
    evaluation_rows,
    kernel_settings,
    model_probe,
    padding_free,
    randomness_probe,
    step_metrics,
)
from launcher.train.batch_loader import BatchLoader, loader, worker_processes
from launcher.train.checkpoint_saver import APART_TIMEOUT, CheckpointSaver
from launcher.train.data_loader import ProbeBatch, ProbeBatches, RankBatches
from launcher.train.evaluation import Parts
from launcher.train.precision import STORED, LossScale, autocast
from launcher.train.sample_randomness import ModelRandomness
from launcher.train.training_run import Progress, Run

_OTHER_DROPOUT = "dropout is drawn by sample from step {step} on, not as in the launcher that began the run"


def build(
    run: run_setup.PreparedRun,
    process: ProcessGroup,
    stop: StopMonitor,
    resume: SavedCheckpoint | None,
    workers: int | None = None,
    split: str = "validation",
    trains: bool = True,
) -> tuple[Run, list[str]]:
    """Build a rank's run without its sinks, and return it with notes for the user. `resume`: the checkpoint to continue
    from; its step decides which parameters train. `workers`: loader processes; None: as in the recipe. `split`: the
    side to evaluate. `trains`: False if the run is only to be evaluated. Raises UserError."""
    recipe, facts = run.recipe, run.facts
    process = dataclasses.replace(
        process, tensor_parallel=recipe.tensor_parallel, timeout=timedelta(minutes=run.cluster.timeout)
    )
    rank_device.require_precision(process, recipe.train.precision)
    kernel_settings.apply(recipe.train)
    task = plugins.task(recipe.task)(recipe.task, facts)
    left_out, max_tokens = process.broadcast(_found_before(run, process.world) if process.rank == 0 else None)
    task.length_multiple = _token_batches.LENGTH_MULTIPLES.get(process.device.type, 1)
    batches, validation = _batches(run, task, process, max_tokens, split)
    start, weights = resume.step if resume else 0, resume is None or not checkpoint_references.replaced(recipe)
    model, notes = _model(run, process, start, weights)
    notes += kernel_settings.notes(recipe.train.precision, process.device)
    probes = batches.probe_batches().to(process.device)
    with model_probe.reported(model, recipe.task.kind):
        notes += model_probe.prepare(task, model, probes.one.batch, recipe.train.precision, process.device)
    requirements = model_requirements.of(recipe, facts)
    if not recipe.packed and process.broadcast(_model_probes.needs_equal_lengths(task, model, requirements)):
        notes.append(padding_probe.note(type(model).__name__))
        batches = dataclasses.replace(batches, equal_lengths=True)
        validation = validation and dataclasses.replace(validation, equal_lengths=True)
    batches, validation, drawn, padded = _without_padding(recipe, process, task, model, batches, validation, trains)
    notes += padded
    probes = batches.probe_batches().to(process.device)
    engine, randomness, engine_notes = build_engine(recipe, facts, process, task, model, probes, drawn)
    process.set_timeouts()  # the engine has made groups of its own
    progress, other_dropout = _progress(recipe, engine, resume, left_out, trains)
    if other_dropout and randomness.modules:
        engine_notes.append(_OTHER_DROPOUT.format(step=start + 1))
    steps, pin = total_steps(recipe, facts), process.device.type != "cpu"
    count = worker_processes(recipe, process) if workers is None else workers
    built = Run(
        recipe=recipe, folder=run.folder, process=process, task=task, engine=engine, randomness=randomness,
        batches=BatchLoader(batches, progress.step, steps, count, pin),
        validation=None if validation is None else loader(validation, range(len(validation)), count, pin),
        schedule=plugins.schedule(recipe.schedule, steps), steps=steps, until=_until(recipe, progress.step, steps),
        data=facts.digest, progress=progress, sinks=[], stop=stop,
        saver=_saver(run, process, stop, None if progress.evaluation_due else resume),
        meter=step_metrics.meter(run, task, process, progress.tokens, progress.seconds),
    )  # fmt: skip
    return built, notes + engine_notes


def _saver(
    run: run_setup.PreparedRun, process: ProcessGroup, stop: StopMonitor, resume: SavedCheckpoint | None
) -> CheckpointSaver:
    between_failures = checkpoint_interval.between_failures(run.cluster)
    saved = resume.step if resume is not None and resume.on_disk else -1
    apart = process.apart(APART_TIMEOUT)
    return CheckpointSaver(run.folder, run.recipe.checkpoint, process, apart, stop, between_failures, saved)


def _found_before(run: run_setup.PreparedRun, ranks: int) -> tuple[list[int], int | None]:
    """Return what earlier starts have found: the steps to leave out, and the maximum tokens of a micro-batch."""
    return roll_backs.left_out(run.folder), token_limit.read(run.folder, run.recipe, ranks)


def _batches(
    run: run_setup.PreparedRun, task: Task, process: ProcessGroup, max_tokens: int | None, split: str
) -> tuple[RankBatches, Parts | None]:
    """Return this rank's part of the training batches, and of the samples of the side `split` (None: there are none).
    `max_tokens`: of a micro-batch."""
    recipe, facts = run.recipe, run.facts
    rank, world = process.data_parallel_rank, process.data_parallel_size
    training = RankBatches(
        PreparedSamples(run.prepared, "train"), sample_order.order(recipe, facts), task, recipe.train.global_batch,
        recipe.seed, Stream.MASK, rank, world, max_tokens,
        recipe.data.max_length if recipe.packed else None, total_steps(recipe, facts),
    )  # fmt: skip
    if split not in facts.samples:
        return training, None
    samples = PreparedSamples(separate_test.folder_of(facts, run.prepared) if split == "test" else run.prepared, split)
    return training, Parts(samples, task, recipe.seed, rank, world, recipe.train.max_tokens, recipe.packed)


def _model(
    run: run_setup.PreparedRun, process: ProcessGroup, step: int, weights: bool
) -> tuple[torch.nn.Module, list[str]]:
    """Return the model on the device, as it trains from `step` on, and notes. Rank 0 writes its configuration to
    RUN/model. `weights`: False if a checkpoint will replace all weights."""
    recipe = run.recipe
    torch.manual_seed(seed_for(recipe.seed, Stream.INIT, 0))
    config = recipe.model.at(step)
    _padded_attention.register()
    model, notes = plugins.model(config).build(model_requirements.of(recipe, run.facts), weights)
    if process.rank == 0:
        _run_configuration.save(model, config, run.folder)
    return model.to(device=process.device, dtype=STORED[recipe.train.precision]).train(), notes


def _without_padding(
    recipe: Recipe,
    process: ProcessGroup,
    task: Task,
    model: torch.nn.Module,
    batches: RankBatches,
    validation: Parts | None,
    trains: bool,
) -> tuple[RankBatches, Parts | None, ModelRandomness | None, list[str]]:
    """Let the model compute rows without padding where it can. Returns the batches of both sides, the draws of the
    model by the contract (None: it draws as before), and notes."""
    drawn, notes = None, list[str]()
    if trains:
        batches, drawn, notes = padding_free.adapt(model, task, batches, recipe.train, process)
    if validation is not None and not recipe.inner_task.generates:  # which takes padded rows
        tested = batches if trains else None
        validation, padded = evaluation_rows.adapt(model, task, validation, recipe.train, process, tested)
        notes += [] if trains else padded
    return batches, validation, drawn, notes


def build_engine(
    recipe: Recipe,
    facts: Facts,
    process: ProcessGroup,
    task: Task,
    model: torch.nn.Module,
    probes: ProbeBatches,
    drawn: ModelRandomness | None = None,
) -> tuple[Engine, ModelRandomness, list[str]]:
    """Probe the model, make it draw by the contract, compile it and wrap it. Returns engine, randomness and notes.
    `drawn`: the model's draws, if it draws by the contract already. Raises UserError."""
    example, precision = probes.one.batch, recipe.train.precision
    with model_probe.reported(model, recipe.task.kind):
        with autocast(precision, process.device):
            probe = model_probe.run(model, task, example)
        whole = model_probe.exact_loss(model, task, example, precision, process)
        notes = _freeze(model, probe.unreached)
        randomness, more = _randomness(drawn, model, task, probes, recipe, process)
        if recipe.train.deterministic:
            _try_backward(model, task, probes.together, randomness, precision)
    notes += more
    if process.rank == 0:
        samples = layout.micro(recipe, process.world, facts.longest)[1]
        notes += attention_dropout_cost.note(model, samples, facts.longest, precision, process.device)
    compile_and_recompute.apply(probe.layers.values(), recipe.train, randomness)
    if not probe.layers and (recipe.train.compile or recipe.train.checkpointed_every):
        notes.append("no layer of this model runs just once: compile and activation_checkpointing do nothing")
    optimizer = plugins.optimizer(recipe.optimizer)
    engine = plugins.strategy(recipe.strategy).wrap(EngineParts(model, probe, optimizer, precision, process))
    _rehearse(engine, task, example, process, precision)
    if whole is not None:
        _split_model_check.check(engine, task, example, process, whole)
        _split_model_check.find_shards(randomness, engine, task, probes.one, precision)
    return engine, randomness, notes


def _freeze(model: torch.nn.Module, unreached: list[str]) -> list[str]:
    """Freeze the parameters that do not affect the loss (poolers, contact heads). Returns a note.

    Otherwise a strategy would wait for their gradients, and an optimiser would decay them.
    """
    for name in unreached:
        model.get_parameter(name).requires_grad_(False)
    if not unreached:
        return []
    some = ", ".join(unreached[:3]) + (f" and {len(unreached) - 3} more" if len(unreached) > 3 else "")
    return [f"{len(unreached)} parameters take no part in the loss and stay as they are: {some}"]


def _randomness(
    drawn: ModelRandomness | None,
    model: torch.nn.Module,
    task: Task,
    probes: ProbeBatches,
    recipe: Recipe,
    process: ProcessGroup,
) -> tuple[ModelRandomness, list[str]]:
    """Make the model draw random numbers by the contract, unless it does already.

    Returns its randomness, and a note on draws that still depend on the layout. With a strict contract, these raise
    UserError instead.
    """
    randomness = drawn
    if randomness is None:
        randomness = randomness_probe.take_over(
            model, lambda batch: task.loss(model, batch)[0], probes, recipe.train.precision
        )
    randomness.tensor_parallel = process.tensor_parallel
    randomness.tensor_parallel_rank = process.rank % process.tensor_parallel
    if not randomness.unreproducible:
        return randomness, []
    what = "; ".join(randomness.unreproducible)
    if recipe.train.strict_contract:
        advice = "train.strict_contract: false trains it all the same"
        raise UserError(Problem("train.strict_contract", f"{what}: ranks and micro-batches change the run ({advice})"))
    advice = "so the run depends on its ranks and micro-batches (train.strict_contract refuses this)"
    return randomness, [f"{what}: {advice}"]


def _try_backward(
    model: torch.nn.Module, task: Task, two: ProbeBatch, randomness: ModelRandomness, precision: str
) -> None:
    """Run a forward and a backward of two samples of different lengths, and discard the gradients. An operation without
    a deterministic algorithm raises here, and not in the middle of the run."""
    with randomness.drawing(two.rows):
        with autocast(precision, two.rows.keys.device):
            loss, _ = task.loss(model, two.batch)
        loss.backward()
    model.zero_grad(set_to_none=True)


def _rehearse(engine: Engine, task: Task, example: Batch, process: ProcessGroup, precision: str) -> None:
    """Run backwards and discard their gradients. DDP orders its buckets by the first backward. After the rehearsals, a
    resumed run reduces gradients in the same order as an uninterrupted one, to the last bit."""
    engine.module.eval()
    for _ in range(engine.rehearsals):
        with engine.accumulating(last=True) as model:
            with autocast(precision, process.device):
                loss, _ = task.loss(model, example)
            engine.backward(loss)
        engine.clear()
    engine.module.train()


def _progress(
    recipe: Recipe, engine: Engine, resume: SavedCheckpoint | None, left_out: list[int], trains: bool
) -> tuple[Progress, bool]:
    """Load the checkpoint into the engine. Returns the progress of the run, and whether earlier steps used another
    definition of dropout. `left_out`: the steps that the run folder lists. `trains`: False: only weights are read."""
    if resume is None:
        return Progress(scale=LossScale.of(recipe.train.precision), left_out=left_out), False
    state = engine.state_dict()
    names = [name for name, _ in engine.unwrapped.named_parameters()]
    # parameters that begin to train here; the checkpoint has no moments of these
    thawed = frozen(recipe.model, names) if resume.step == recipe.model.unfreeze_at else []
    needed = state if trains else {name: tensor for name, tensor in state.items() if name.startswith("model.")}
    checkpoint.load(needed, resume, new=tuple(f"optimizer.{name}." for name in thawed))
    engine.load_state_dict(state)
    progress = Progress.of(resume.state, recipe.train.precision)
    progress.left_out = sorted({*progress.left_out, *left_out})
    if resume.state.get("metric") != recipe.evaluate.metric:  # the watched metric has changed
        progress.history, progress.evaluation = [], {}
    return progress, resume.state.get("draws") != dropout.VERSION


def _until(recipe: Recipe, step: int, steps: int) -> int:
    """Return the step at which frozen parameters begin to train, or the last step."""
    unfreeze_at = recipe.model.unfreeze_at
    return unfreeze_at if unfreeze_at is not None and step < unfreeze_at < steps else steps
