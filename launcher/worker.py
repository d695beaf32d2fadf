"""One rank: a run folder in, everything built, the loop called.

`launcher run` starts `train` on each rank. By hand, `python -m launcher.worker RECIPE [key=value ...]` does the same
under torchrun, accelerate, srun or mpirun, or alone: rank 0 plans and prepares first, and the others wait for it.
"""

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from launcher.config import kinds, load
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe
from launcher.contract.order import InTurn
from launcher.contract.random import Stream, seed_for
from launcher.plan import layout, mixture, need, plan
from launcher.plan.folder import Saved
from launcher.prepare import ready
from launcher.prepare.samples import Samples
from launcher.run import checkpoint, layers, loop, process, trial
from launcher.run.batches import Batches, loader, to
from launcher.run.memory import Peak
from launcher.run.precision import STORED, LossScale, autocast
from launcher.run.process import Process
from launcher.run.stop import Stop
from launcher.sinks import About
from launcher.strategies import Bare


def train(folder: Path, at: Process, stop: Stop) -> int:
    """Train the run of a folder that `launcher.prepare.ready` has written. Returns 0, or 75 when told to stop."""
    run = ready.read(folder)
    with contextlib.ExitStack() as held:
        problems, steps = at.share(_enter(run, held) if at.rank == 0 else None)
        if problems:  # told to all ranks, so that none waits for one that has left
            raise UserError(problems)
        resume = run.folder.saved(steps[-1]) if steps else None
        return _train(dataclasses.replace(run, resume=resume), at, stop)


def _enter(run: ready.Ready, held: contextlib.ExitStack) -> tuple[list[str], list[int]]:
    """Rank 0 takes the right to write, and then looks which checkpoints are whole, for all ranks."""
    try:
        held.enter_context(ready.hold(run.folder))
    except UserError as error:
        return [str(problem) for problem in error.problems], []
    return [], [saved.step for saved in run.folder.whole()]


def evaluate(folder: Path, at: Process, which: str | int) -> dict[str, float]:
    """The metrics of a checkpoint on the run's validation data, the same on every rank."""
    run = ready.read(folder)
    run = dataclasses.replace(run, recipe=layout.runnable(run.recipe, at.world))
    saved = run.folder.saved(which)
    built, _ = build(run, at, Stop(), saved)
    if built.validation is None:
        raise UserError(f"{run.folder.recipe}: data.validation: there is nothing to evaluate on (add it to the recipe)")
    return loop.evaluate(built)


def measure(folder: Path, at: Process, stop: Stop, steps: int) -> dict[str, Any]:
    """The records of the first steps, and the most memory that any rank needed for them, in bytes. Nothing is saved;
    `stopped`: told to leave before the last."""
    made = ready.read(folder)
    strategy = kinds.of("strategies", made.recipe.strategy)
    if hasattr(strategy, "load"):
        strategy.load(at.device.type)
    with torch.device("meta"):  # code is no memory of the model's: have it loaded before
        kinds.of("models", made.recipe.model).build(made.recipe.model, need.of(made.recipe, made.facts), weights=False)
    peak = Peak(at.device)
    run, _ = build(made, at, stop, None, workers=0)
    begin, records, stopped = time.perf_counter(), [], False
    for _, batch in zip(range(steps), run.batches, strict=False):
        whole = loop.agree(run.process, batch, time.perf_counter() - begin, stop=stop.requested())
        if stopped := whole.stop:
            break
        records.append(loop.step(run, batch, whole, begin))
        begin = time.perf_counter()
    return {"records": records, "memory": int(at.gather(np.array(peak.bytes())).max()), "stopped": stopped}


def build(
    run: ready.Ready, at: Process, stop: Stop, resume: Saved | None, workers: int | None = None
) -> tuple[loop.Run, list[str]]:
    """Everything the loop needs but its sinks, and notes for the user. `resume`: the checkpoint to go on from."""
    recipe, facts = run.recipe, run.facts
    at = dataclasses.replace(at, tensor_parallel=recipe.tensor_parallel)
    task = kinds.of("tasks", recipe.task).Task(recipe.task, facts)
    batches, validation = _batches(run, task, at)
    model, notes = _model(recipe, run, at)
    example = to(batches.example(), at.device)
    notes += task.attach(model, example)
    with autocast(recipe.train.precision, at.device):
        found = trial.run(model, task, example)
    whole = trial.loss(model, task, example) if at.tensor_parallel > 1 else 0.0
    notes += _freeze(model, found.unreached)
    layers.dress(found.layers.values(), recipe.train)
    if not found.layers and (recipe.train.compile or recipe.train.checkpointed_every):
        notes.append("no layer of this model runs just once: compile and activation_checkpointing do nothing")
    bare = Bare(model, found, recipe.optimizer, recipe.train.precision, at)
    engine = kinds.of("strategies", recipe.strategy).wrap(recipe.strategy, bare)
    _rehearse(engine, task, example, at, recipe)
    if at.tensor_parallel > 1:
        _compare(engine, task, example, at, whole)

    progress = loop.Progress(scale=LossScale.of(recipe.train.precision))
    if resume is not None:
        state = engine.state_dict()
        checkpoint.load(state, resume)
        engine.load_state_dict(state)
        progress = loop.Progress.of(resume.state, recipe.train.precision)
    steps = plan.total_steps(recipe, facts)
    count = _workers(recipe, at) if workers is None else workers
    pin = at.device.type != "cpu"
    built = loop.Run(
        recipe=recipe,
        folder=run.folder,
        process=at,
        task=task,
        engine=engine,
        batches=loader(batches, progress.step, steps, count, pin),
        validation=None if validation is None else loader(validation, 0, _rounds(run), count, pin),
        steps=steps,
        data=facts.digest,
        progress=progress,
        sinks=[],
        stop=stop,
    )
    return built, notes


def _freeze(model: torch.nn.Module, unreached: list[str]) -> list[str]:
    """Take the parameters that the loss does not depend on out of training (poolers, contact heads). No strategy waits
    for their gradients then, and no optimiser decays them."""
    for name in unreached:
        model.get_parameter(name).requires_grad_(False)
    if not unreached:
        return []
    some = ", ".join(unreached[:3]) + (f" and {len(unreached) - 3} more" if len(unreached) > 3 else "")
    return [f"{len(unreached)} parameters take no part in the loss and stay as they are: {some}"]


def _rehearse(engine: Any, task: Any, example: dict[str, Any], at: Process, recipe: Recipe) -> None:
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


def _compare(engine: Any, task: Any, example: dict[str, Any], at: Process, expected: float) -> None:
    """Raises UserError where a model dealt over ranks does not compute what the whole one did, nor its gradients: found
    by trying, in the precision that parameters are stored in."""
    engine.module.eval()
    try:
        with engine.accumulating(last=True) as model:
            loss, _ = task.loss(model, example)
            engine.backward(loss)
    except (RuntimeError, ValueError, TypeError) as error:
        what = f"{type(engine.module).__name__} cannot be dealt over ranks: {str(error).splitlines()[0][:200]} (take 1)"
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


def _train(run: ready.Ready, at: Process, stop: Stop) -> int:
    built, notes = build(run, at, stop, run.resume)
    if at.rank == 0:
        built = dataclasses.replace(built, sinks=_sinks(run, built, notes))
    finished = False
    try:
        code = loop.train(built)
        finished = code == loop.DONE
        return code
    except Exception as error:
        error.add_note(f"at step {built.progress.step + 1}")
        raise
    finally:
        for sink in built.sinks:
            sink.close(finished)


def _batches(run: ready.Ready, task: Any, at: Process) -> tuple[Batches, Batches | None]:
    recipe = run.recipe

    def make(side: str, order: Any, stream: Stream, steps: int | None) -> Batches:
        samples = Samples(run.prepared, side)
        return Batches(
            samples, order, task, recipe.train.global_batch, recipe.seed, stream, at.data_parallel_rank,
            at.data_parallel_size, recipe.train.max_tokens, recipe.data.max_length if recipe.packed else None, steps,
        )  # fmt: skip

    counts = run.facts.samples
    training = make("train", mixture.order(recipe, run.facts), Stream.MASK, plan.total_steps(recipe, run.facts))
    if "validation" not in counts:
        return training, None
    return training, make("validation", InTurn(counts["validation"]), Stream.EVALUATE, None)


def _rounds(run: ready.Ready) -> int:
    """Batches of the validation side."""
    return -(-run.facts.samples["validation"] // run.recipe.train.global_batch)


def _model(recipe: Recipe, run: ready.Ready, at: Process) -> tuple[torch.nn.Module, list[str]]:
    torch.manual_seed(seed_for(recipe.seed, Stream.INIT, 0))
    wanted = need.of(recipe, run.facts)
    model, notes = kinds.of("models", recipe.model).build(recipe.model, wanted)
    if at.rank == 0 and hasattr(model, "config") and not run.folder.model.is_dir():
        aside = run.folder.path / ".model.partial"
        model.config.save_pretrained(aside)
        aside.rename(run.folder.model)
    return model.to(device=at.device, dtype=STORED[recipe.train.precision]).train(), notes


def _workers(recipe: Recipe, at: Process) -> int:
    """Loader processes of a rank: on a CPU they would only take its cores."""
    if recipe.train.workers == "auto":
        return 0 if at.device.type == "cpu" else 2
    return recipe.train.workers


def _sinks(run: ready.Ready, built: loop.Run, notes: list[str]) -> list[Any]:
    recipe, progress = run.recipe, built.progress
    about = About(
        name=recipe.name, folder=run.folder.path, recipe=recipe.model_dump(mode="json"), steps=built.steps,
        start=progress.step, seconds=progress.seconds, tokens=progress.tokens, equation=run.plan.equation, notes=notes,
        skipped=progress.skipped, overflows=progress.overflows,
    )  # fmt: skip
    return [kinds.of("sinks", sink).open(sink, about) for sink in recipe.sinks]


def main(arguments: list[str]) -> int:
    """By hand: `RECIPE [key=value ...]`, the place told by the environment."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m launcher.worker RECIPE [key=value ...]", file=sys.stderr)
        return 2
    try:
        at = process.connect(process.place())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    stop = Stop()
    stop.listen()
    try:
        folder, problems = at.share(_ready(arguments, at) if at.rank == 0 else None)
        if problems:
            if at.rank == 0:
                print("\n".join(problems), file=sys.stderr, flush=True)
            return 2
        return train(Path(folder), at, stop)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        step = f" {error.__notes__[0]}" if getattr(error, "__notes__", None) else ""
        print(f"rank {at.rank} failed{step}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        traceback.print_exc()
        return 1
    finally:
        at.close()


def _ready(arguments: list[str], at: Process) -> tuple[str, list[str]]:
    """Rank 0 plans and prepares; what is wrong is told once, and every rank leaves with the same code."""
    try:
        made = ready.write(ready.check(arguments[0], arguments[1:], load.cluster("local").value, at.world))
    except UserError as error:
        return "", [str(problem) for problem in error.problems]
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return str(made.folder.path), []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
