"""The training loop, from top to bottom: load a batch, synchronise, step, evaluate, save, stop.

A step is begun without waiting for an accelerator. Its results are read, and its record written, after the next step
has been begun, or before an evaluation, a checkpoint or the end. So the host loads and exchanges batches while the
device computes.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from launcher.config.types import JsonObject
from launcher.contract import digest, dropout
from launcher.distributed.exit_codes import DONE, STOPPED
from launcher.distributed.heartbeat import Stage
from launcher.distributed.signals import StopReason
from launcher.sinks import Record
from launcher.tasks import Outputs
from launcher.train import checkpoint, early_stopping, evaluation, gradient, out_of_memory, spikes
from launcher.train.evaluation_stop import EvaluationStopped, until_stop
from launcher.train.gradient import Gradient
from launcher.train.rank_batch import RankBatch
from launcher.train.spikes import Limits
from launcher.train.step_sync import StepInfo, sync_step_info
from launcher.train.training_run import Run


def train(run: Run) -> int:
    """Train to step `until`, or until any rank has to stop. Returns the exit code: DONE or STOPPED. Raises RunReplaced
    if another start has taken over, and RollBackNeeded after a spike."""
    recipe, progress = run.recipe, run.progress
    every = recipe.checkpoint.every
    first = recipe.evaluate.at_start and progress.step == 0
    if (first or progress.evaluation_due) and not _evaluate_and_save(run):
        return _leave(run)

    batches, beat, begun = iter(run.batches), run.heartbeat.beat, list[BegunStep]()
    while progress.step < run.until and not early_stopping.enough(progress.history, recipe.evaluate):
        begin = time.perf_counter()
        beat(Stage.LOADING, progress.step + 1)
        batch = next(batches)
        beat(Stage.AGREEING, progress.step + 1)
        wait, stop, saver = time.perf_counter() - begin, run.stop.requested(), run.saver
        info = sync_step_info(
            run.process, batch, wait, stop, saver.due(), saver.writing, run.heartbeat.own_seconds,
            run.batches.dataset.max_tokens, progress.out_of_memory,
        )  # fmt: skip
        out_of_memory.agree(run, info)
        run.stop.agree(info.stop)
        if info.stop:
            _finish(run, begun)
            return _leave(run)
        run.saver.collect(info.writing)
        if info.due:
            _finish(run, begun)
            begin_save(run)

        begun.append(begin_step(run, batch, info, begin))
        _finish(run, begun, left=_unread(run))

        at_end = progress.step == run.steps
        if run.validation is not None and (at_end or _divides(recipe.evaluate.every, progress.step)):
            _finish(run, begun)
            if not _evaluate_and_save(run):
                return _leave(run)
        if isinstance(every, int) and _divides(every, progress.step):
            _finish(run, begun)
            begin_save(run)
        if run.copies is not None and run.copies.due(progress.step):
            _finish(run, begun)
            run.heartbeat.beat(Stage.SAVING, progress.step)
            run.copies.copy(run.engine.state_dict(), {**checkpoint_state(run), "saving": run.saver.saving})
    _finish(run, begun)
    save(run)
    return DONE


def _evaluate_and_save(run: Run) -> bool:
    """Evaluate, log the metrics, and save if they are the best. Returns False if all ranks have agreed to leave
    meanwhile; the evaluation is then due after the resume."""
    progress = run.progress
    progress.evaluation_due = True
    try:
        _log(run, evaluate(run))
    except EvaluationStopped:
        return False
    progress.evaluation_due = False
    if run.recipe.evaluate.save_best and early_stopping.best_so_far(progress.history, progress.step):
        begin_save(run)
    return True


def _leave(run: Run) -> int:
    """Save, and return the exit code. Raises RunReplaced if another start has taken over."""
    if run.stop.agreed is StopReason.REPLACED:
        raise checkpoint.RunReplaced(run.folder)
    save(run)
    return STOPPED


@dataclass(frozen=True)
class BegunStep:
    """An optimiser step whose results are still on the device. `step`: its number, from 1. `record`: the part of its
    record that is known without them. `gradient`: None: the step is left out. `usual`: the limits of loss and norm."""

    step: int
    info: StepInfo
    gradient: Gradient | None
    record: Record
    usual: Limits


def step(run: Run, batch: RankBatch, info: StepInfo, begin: float) -> Record:
    """Take one optimiser step, wait for it, and return its record. `begin`: as for `begin_step`."""
    return finish_step(run, begin_step(run, batch, info, begin))


def begin_step(run: Run, batch: RankBatch, info: StepInfo, begin: float) -> BegunStep:
    """Take one optimiser step, without waiting for the device.

    A gradient that is not finite updates nothing on any rank, but the step still counts; so do a spike, unless the
    recipe only tells, and a step that is left out. `begin`: the time.perf_counter at which the batch was requested.
    """
    recipe, progress = run.recipe, run.progress
    usual = spikes.limits(progress.recent, progress.step + 1, recipe.train.spike)
    lr = recipe.optimizer.lr * run.schedule.factor(progress.step, progress.history)
    computed = None
    if progress.step + 1 not in progress.left_out:
        computed = gradient.compute(run, batch, info.weight, usual)
        run.saver.settle()
        run.heartbeat.beat(Stage.UPDATING, progress.step + 1)
        run.engine.update(lr, gradient.factor_of_step(computed, recipe, progress.scale.value))
    progress.step += 1
    progress.samples += recipe.train.global_batch
    progress.tokens += info.tokens
    progress.waited += info.wait
    progress.seconds += time.perf_counter() - begin
    record = {
        "lr": lr, "samples": progress.samples, "tokens": progress.tokens, "data": digest.text(info.digest),
        "seconds": progress.seconds, "waited": round(progress.waited, 4),
        "fill": round(info.tokens / max(1, info.padded), 4),
    }  # fmt: skip
    return BegunStep(progress.step, info, computed, record, usual)


def finish_step(run: Run, begun: BegunStep) -> Record:
    """Wait for the results of a step, count it as taken or skipped, and return its record. All ranks call it, in the
    order of the steps."""
    progress, fp16, known = run.progress, run.recipe.train.precision == "fp16", begun.record
    begin = time.perf_counter()
    loss, norm, spike = begun.gradient.results() if begun.gradient else (math.nan, math.nan, False)
    progress.seconds += time.perf_counter() - begin
    elapsed = progress.seconds if progress.step == begun.step else known["seconds"]
    if math.isfinite(norm):
        progress.scale.succeed(dynamic=fp16)
        progress.skipped_in_a_row = 0
        if math.isfinite(loss) and begun.info.weight:
            spikes.observe(progress, run.recipe, (begun.step, loss, norm), spike)
    elif begun.gradient is not None:
        gradient.skipped(run, begun.step, begun.gradient.nonfinite)
    more = {"scale": progress.scale.value, "overflows": progress.overflows} if fp16 else {}
    more |= {"oom": begun.info.out_of_memory, "max_tokens": begun.info.max_tokens} if begun.info.out_of_memory else {}
    more |= {"spike": 1} if spike else {}
    more |= {"left_out": 1} if begun.gradient is None else {}
    return {
        "step": begun.step, "loss": loss, "grad_norm": norm, "lr": known["lr"], "samples": known["samples"],
        "tokens": known["tokens"], "seconds": round(elapsed, 4), "data": known["data"],
        "skipped": progress.skipped, "waited": known["waited"], "fill": known["fill"], **more,
    }  # fmt: skip


def _unread(run: Run) -> int:
    """Return the number of steps whose results may stay on the device while the next one begins. On a CPU they are
    there at once, and fp16 has read them."""
    return 0 if run.process.device.type == "cpu" or run.recipe.train.precision == "fp16" else 1


def _finish(run: Run, begun: list[BegunStep], left: int = 0) -> None:
    """Finish and log the begun steps, except for the last `left` of them."""
    while len(begun) > left:
        one = begun.pop(0)
        record = finish_step(run, one)
        measured = run.meter.measure(one.info, record["tokens"], record["seconds"]) if run.meter else {}
        goodput = {"goodput": round(run.ledger.goodput(), 4)} if run.ledger else {}
        spread = run.stragglers.add(one.info.own) if run.stragglers else {}
        _log(run, {**record, **measured, **goodput, **spread})
        if "spike" in record:
            spikes.act(run, (one.step, record["loss"], record["grad_norm"]), one.usual)


def evaluate(run: Run) -> Record:
    """Evaluate on the validation samples, and return the record. The metrics do not depend on the number of ranks."""
    progress = run.progress
    run.heartbeat.beat(Stage.EVALUATING, progress.step)
    predicted = outputs(run, run.task)
    run.heartbeat.beat(Stage.SCORING, progress.step)
    metrics = run.task.metrics(predicted)
    _report(run, predicted)
    watched = early_stopping.value(metrics, run.recipe.evaluate, run.task.directions())
    record = {f"eval/{name}": value for name, value in metrics.items()}
    progress.evaluation = {**record, "step": progress.step}
    earlier = [entry for entry in progress.history if entry[0] < progress.step]
    progress.history = [*earlier, (progress.step, watched)]
    return {"step": progress.step, **record}


def _report(run: Run, predicted: Outputs) -> None:
    """Give the sinks that show it the task's report. Rank 0 alone has sinks."""
    if sinks := [sink for sink in run.sinks if sink.takes_reports]:
        report = run.task.report(predicted)
        for sink in sinks:
            sink.report(run.progress.step, report)


def outputs(run: Run, predictor: evaluation.BatchPredictor) -> Outputs:
    """Return the outputs for all validation samples. `predictor`: the run's task, or a wrapper of it. Raises
    EvaluationStopped on all ranks."""
    assert run.validation is not None
    parts = _with_beats(run, until_stop(run.validation, run.process, run.stop))
    return evaluation.outputs(run.engine.module, predictor, parts, run.process, run.recipe.train.precision)


def _with_beats(run: Run, parts: Iterable[evaluation.Part]) -> Iterator[evaluation.Part]:
    """Yield the parts, with a beat for each, so that a long evaluation does not count as a hang."""
    for part in parts:
        run.heartbeat.beat(Stage.EVALUATING, run.progress.step)
        yield part


def begin_save(run: Run) -> None:
    """Begin to save a checkpoint of the current step, unless there is one. Training waits for a copy of the state
    only."""
    run.heartbeat.beat(Stage.SAVING, run.progress.step)
    if run.saver.step != run.progress.step:
        buffers = {f"model.{name}" for name, _ in run.engine.unwrapped.named_buffers()}
        run.saver.save(run.engine.state_dict(), checkpoint_state(run), spikes.kept(run), changing=buffers)
        _account_save(run)


def save(run: Run) -> None:
    """Save a checkpoint of the current step, unless there is one, and wait until it is complete. This may be tried
    again for hours, and is no hang."""
    run.heartbeat.beat(Stage.LEAVING, run.progress.step)
    run.saver.finish()
    if run.saver.step != run.progress.step:
        run.saver.save_last(run.engine.state_dict(), checkpoint_state(run), spikes.kept(run), run.heartbeat)
        _account_save(run)


def _account_save(run: Run) -> None:
    if run.ledger is not None:
        run.ledger.saved()


def checkpoint_state(run: Run) -> JsonObject:
    """Return what a checkpoint, or a copy in memory, holds besides tensors (see CheckpointState in
    launcher.storage.run_files)."""
    progress, recipe = run.progress, run.recipe
    evaluated = progress.evaluation.get("step") == progress.step
    watched = {"metric": f"eval/{recipe.evaluate.metric}", "value": progress.history[-1][1]} if evaluated else {}
    return {
        **progress.state(), "data": run.data, "ranks": run.process.world, "strategy": recipe.strategy.kind,
        "evaluation": progress.evaluation if evaluated else {}, "watched": watched,
        "metric": recipe.evaluate.metric, "enough": early_stopping.enough(progress.history, recipe.evaluate),
        "draws": dropout.VERSION,
    }  # fmt: skip


def _divides(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _log(run: Run, record: Record) -> None:
    if run.stop.lease is not None and run.stop.lease.lost:
        return  # another start has taken over the sinks' files
    for sink in run.sinks:
        sink.write(record)
