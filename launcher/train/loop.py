"""The training loop, from top to bottom: batch, accumulate, step, measure, evaluate, save, leave."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from launcher.config.recipe import Recipe, seconds
from launcher.contract import digest, dropout
from launcher.contract.random import Stream, seed_for
from launcher.distributed.exit_codes import DONE, STOPPED
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.shutdown import StopMonitor
from launcher.distributed.signals import StopReason
from launcher.storage.run_dir import RunDir
from launcher.tasks import Outputs
from launcher.train import checkpoint, early_stopping, evaluation, lr_schedule, optim
from launcher.train.data_loader import RankBatch, to
from launcher.train.evaluation import Part
from launcher.train.precision import LossScale, autocast
from launcher.train.sample_randomness import ModelRandomness

_SHARE = np.dtype(
    [
        ("weight", "f8"),
        ("digest", "u8"),
        ("tokens", "i8"),
        ("padded", "i8"),
        ("wait", "f8"),
        ("stop", "i8"),
        ("due", "i8"),
    ]
)


class NotFinite(RuntimeError):
    """Step after step has a gradient that is infinite or not a number."""


@dataclass(frozen=True)
class GlobalBatchInfo:
    """A global batch as all ranks know it. `padded`: the positions computed for its tokens. `wait`: seconds that the
    slowest rank waited for it. `stop`: why any rank was told to leave; `due`: whether any finds a save due."""

    weight: float
    digest: int
    tokens: int
    padded: int
    wait: float
    stop: StopReason
    due: bool


@dataclass
class Progress:
    """How far a run is, over all its resumes: kept in each checkpoint. `history`: the steps that were evaluated, each
    with the metric that is watched, turned so that less is better."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    evaluation: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    saved: int = -1
    skipped: int = 0
    skipped_in_a_row: int = 0
    culprit: str = ""
    overflows: int = 0
    scale: LossScale = field(default_factory=LossScale)

    def kept(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        names = (
            "step", "samples", "tokens", "seconds", "waited", "skipped", "skipped_in_a_row", "culprit", "overflows",
            "history",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "scale": [self.scale.value, self.scale.good]}

    @classmethod
    def of(cls, state: dict[str, Any], precision: str) -> "Progress":
        """That of a checkpoint's state."""
        made = cls(saved=state["step"], scale=LossScale.of(precision))
        for name in made.kept().keys() & state.keys() - {"scale"}:
            setattr(made, name, state[name])
        if "scale" in state and precision == "fp16":
            made.scale = LossScale(*state["scale"])
        return made


@dataclass
class Run:
    """What a rank trains with. `randomness`: what the model draws. `batches` yields the global batches from
    `progress.step` on, until the step at which another part of the model is to train, or the last of all `steps`;
    `stop` knows of signals; the launcher sees the `heartbeat`."""

    recipe: Recipe
    folder: RunDir
    process: ProcessGroup
    task: Any
    engine: Any
    randomness: ModelRandomness
    batches: Iterable[RankBatch]
    validation: Iterable[Part] | None
    steps: int
    until: int
    data: str
    progress: Progress
    sinks: Sequence[Any]
    stop: StopMonitor
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


def train(run: Run) -> int:
    """Train to `until`, or until any rank is told to stop. Returns the exit code: 0 or 75."""
    recipe, progress = run.recipe, run.progress
    every = recipe.checkpoint.every
    saved_at = time.monotonic()
    if recipe.evaluate.at_start and progress.step == 0:
        _tell(run, evaluate(run))

    batches, beat = iter(run.batches), run.heartbeat.beat
    while progress.step < run.until and not early_stopping.enough(progress.history, recipe.evaluate):
        begin = time.perf_counter()
        beat(Stage.LOADING, progress.step + 1)
        batch = next(batches)
        beat(Stage.AGREEING, progress.step + 1)
        due = isinstance(every, str) and time.monotonic() - saved_at >= seconds(every)
        wait = time.perf_counter() - begin
        whole = agree(run.process, batch, wait, stop=run.stop.requested(), due=due)
        run.stop.agree(whole.stop)
        if whole.stop is StopReason.REPLACED:
            raise checkpoint.RunReplaced(run.folder)
        if whole.stop or whole.due:
            save(run)
            saved_at = time.monotonic()
        if whole.stop:
            return STOPPED

        _tell(run, step(run, batch, whole, begin))

        if run.validation is not None and (progress.step == run.steps or _falls(progress.step, recipe.evaluate.every)):
            _tell(run, evaluate(run))
        best = recipe.evaluate.save_best and early_stopping.best_so_far(progress.history, progress.step)
        if best or (isinstance(every, int) and _falls(progress.step, every)):
            save(run)
    save(run)
    return DONE


def step(run: Run, batch: RankBatch, whole: GlobalBatchInfo, begin: float) -> dict[str, Any]:
    """One optimiser step. Returns its record, as it stands in metrics.jsonl; `begin`: when its batch was asked for. A
    gradient that is not finite changes nothing on any rank: its step goes by without an update."""
    recipe, progress = run.recipe, run.progress
    loss, norm = _gradient(run, batch, whole.weight)
    lr = recipe.optimizer.lr * lr_schedule.factor(recipe.schedule, progress.step, run.steps, progress.history)
    run.heartbeat.beat(Stage.UPDATING, progress.step + 1)
    if math.isfinite(norm):
        run.engine.update(lr, optim.clipping(norm, recipe.optimizer.clip) / progress.scale.value)
        progress.scale.succeed(dynamic=recipe.train.precision == "fp16")
        progress.skipped_in_a_row = 0
    else:
        _skip(run)
    progress.step += 1
    progress.samples += recipe.train.global_batch
    progress.tokens += whole.tokens
    progress.seconds += time.perf_counter() - begin
    progress.waited += whole.wait
    scale = {"scale": progress.scale.value, "overflows": progress.overflows} if recipe.train.precision == "fp16" else {}
    return {
        "step": progress.step, "loss": loss, "grad_norm": norm, "lr": lr, "samples": progress.samples,
        "tokens": progress.tokens, "seconds": round(progress.seconds, 4), "data": digest.text(whole.digest),
        "skipped": progress.skipped, "waited": round(progress.waited, 4),
        "fill": round(whole.tokens / max(1, whole.padded), 4), **scale,
    }  # fmt: skip


def _gradient(run: Run, batch: RankBatch, weight: float) -> tuple[float, float]:
    """The loss of the global batch and the norm of its gradient, which the engine now holds under the loss scale.

    Where fp16 gradients overflow under the scale, no step is taken: the same batch comes again under half of it, so
    that the scale never decides what a run learns from.
    """
    scale = run.progress.scale
    before = scale.value
    while True:
        # nothing draws from it that is known; what does all the same is repeated by a resume on as many ranks
        torch.manual_seed(seed_for(run.recipe.seed, Stream.STEP, run.progress.step, run.process.data_parallel_rank))
        loss = _accumulate(run, batch, weight)
        norm = run.engine.norm() / scale.value
        if math.isfinite(norm):
            return loss, norm
        if not math.isfinite(loss) or not scale.shrink():
            scale.value = before  # it was not what made this gradient overflow
            return loss, norm
        run.engine.clear()
        run.progress.overflows += 1


def _skip(run: Run) -> None:
    """Drop a gradient that is not finite. Raises NotFinite after `abort_after` of them in a row."""
    progress, named = run.progress, run.engine.nonfinite()
    run.engine.clear()
    gathered = run.process.all_gather(np.array(list(named.values())))
    every: list[bool] = np.asarray(gathered.any(axis=0)).tolist()
    bad = [name for name, told in zip(named, every, strict=True) if told]
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row == 1:  # a backward goes from the last parameter to the first
        progress.culprit = f"{bad[-1]} ({len(bad)} of {len(named)} parameters)" if bad else "the norm alone"
    if progress.skipped_in_a_row >= run.recipe.train.abort_after:
        first = progress.step + 2 - progress.skipped_in_a_row
        raise NotFinite(
            f"the gradient was not finite in {progress.skipped_in_a_row} steps in a row, from step {first} on, where "
            f"{progress.culprit} went first ({_advice(run.recipe)})"
        )


def _advice(recipe: Recipe) -> str:
    """What helps against gradients that are not finite. A resume refuses what changes the trajectory."""
    other = " or train.precision=bf16" if recipe.train.precision == "fp16" else ""
    advice = f"a new run may do better: another name, with a lower optimizer.lr{other}"
    return f"{advice}; train.abort_after={10 * recipe.train.abort_after} lets this one go through more such steps"


def agree(
    process: ProcessGroup, batch: RankBatch, wait: float = 0.0, stop: StopReason = StopReason.NONE, due: bool = False
) -> GlobalBatchInfo:
    """What the ranks' shares add up to. One rank's stop becomes everyone's. `wait`: seconds that this rank waited."""
    counted = (batch.weight, batch.digest, batch.tokens, batch.padded) if process.leads else (0.0, 0, 0, 0)
    every = process.all_gather(np.array((*counted, wait, stop, due), dtype=_SHARE))
    return GlobalBatchInfo(
        weight=float(every["weight"].sum()),
        digest=digest.total(every["digest"].tolist()),
        tokens=int(every["tokens"].sum()),
        padded=int(every["padded"].sum()),
        wait=float(every["wait"].max()),
        stop=StopReason(int(every["stop"].max())),
        due=bool(every["due"].any()),
    )


def evaluate(run: Run) -> dict[str, Any]:
    """The metrics of the validation samples, the same whatever the number of ranks."""
    run.heartbeat.beat(Stage.EVALUATING, run.progress.step)
    made, progress = outputs(run), run.progress
    found = run.task.metrics(made)
    metrics = {f"eval/{name}": value for name, value in found.items()}
    progress.evaluation = {**metrics, "step": progress.step}
    earlier = [entry for entry in progress.history if entry[0] < progress.step]
    progress.history = [
        *earlier,
        (progress.step, early_stopping.value(found, run.recipe.evaluate, run.task.directions())),
    ]
    return {"step": progress.step, **metrics}


def outputs(run: Run) -> Outputs:
    """What the model makes of every validation sample."""
    assert run.validation is not None
    return evaluation.outputs(run.engine.module, run.task, run.validation, run.process, run.recipe.train.precision)


def save(run: Run) -> None:
    """A checkpoint of where the run is, unless there is one."""
    progress = run.progress
    if progress.saved == progress.step:
        return
    run.heartbeat.beat(Stage.SAVING, progress.step)
    here = progress.evaluation.get("step") == progress.step
    watched = {"metric": f"eval/{run.recipe.evaluate.metric}", "value": progress.history[-1][1]} if here else {}
    state = {
        **progress.kept(), "data": run.data, "ranks": run.process.world, "strategy": run.recipe.strategy.kind,
        "evaluation": progress.evaluation if here else {}, "watched": watched,
        "metric": run.recipe.evaluate.metric, "enough": early_stopping.enough(progress.history, run.recipe.evaluate),
        "draws": dropout.VERSION,
    }  # fmt: skip
    keep, lease = run.recipe.checkpoint.keep, run.stop.lease
    checkpoint.save(run.folder, run.engine.state_dict(), state, keep, run.process, lease)
    progress.saved = progress.step


def _accumulate(run: Run, batch: RankBatch, weight: float) -> float:
    """Add up the gradients of d(sum of losses) / weight. Returns the loss of the global batch, on every rank.

    Gradients are averaged over the ranks (those that share no sample), so that each backward is scaled by their number
    / weight.
    """
    process, total, beat, at = run.process, 0.0, run.heartbeat.beat, run.progress.step + 1
    scale = process.data_parallel_size / weight * run.progress.scale.value if weight else 0.0
    for number, (micro, rows) in enumerate(zip(batch.micro_batches, batch.rows, strict=True), start=1):
        left = len(batch.micro_batches) - number
        drawing = run.randomness.drawing(rows.to(process.device))
        with drawing, run.engine.accumulating(last=left == 0) as model:
            beat(Stage.FORWARD, at, left)
            with autocast(run.recipe.train.precision, process.device):
                loss, _ = run.task.loss(model, to(micro, process.device))
            beat(Stage.BACKWARD, at, left)
            run.engine.backward(loss * scale)
        total += float(loss.detach())
    beat(Stage.REDUCING, at)
    counted = total if process.leads else 0.0
    return float(process.all_gather(np.array(counted)).sum()) / weight if weight else 0.0


def _falls(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _tell(run: Run, record: dict[str, Any]) -> None:
    if run.stop.lease is not None and run.stop.lease.lost:
        return  # the sinks are another start's by now
    for sink in run.sinks:
        sink.write(record)
