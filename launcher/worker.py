"""One rank: a run folder in, everything built, the loop called.

`launcher run` starts `train` on each rank. By hand, `python -m launcher.worker RECIPE [key=value ...]` does the same
under torchrun, accelerate, srun or mpirun, or alone: rank 0 plans and prepares first, and the others wait for it.
"""

import contextlib
import dataclasses
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from launcher.build import build
from launcher.config import kinds, load, plugins
from launcher.config.errors import UserError
from launcher.config.types import Plugin
from launcher.distributed import (
    failure,
    launch_env,
    local_run_record,
    output_streams,
    private_tmp,
    process_group,
    rank_log,
    rendezvous,
    signals,
    starter_handshake,
)
from launcher.distributed.heartbeat import Heartbeat
from launcher.distributed.interruptible_wait import StoppedBeforeTraining, patiently
from launcher.distributed.launch_env import UnreachablePeer
from launcher.distributed.process_group import Process
from launcher.distributed.shutdown import Stop
from launcher.distributed.signals import Reason, StopRequested
from launcher.distributed.starter_handshake import Started
from launcher.plan import layout, model_requirements, plan, writable_folders
from launcher.prepare import run_setup, tokenizer
from launcher.sinks import RunInfo, Sink
from launcher.storage import disk_full, lease
from launcher.storage.run_dir import RunDir
from launcher.train import early_stopping, evaluation, loop
from launcher.train.checkpoint import RunReplaced
from launcher.train.global_batch import sync_step_info
from launcher.train.memory_meter import Peak
from launcher.train.training_run import Run

_LOCAL_RANK = re.compile(r"--local[-_]rank=\d+")
"""What DeepSpeed's launcher puts before the arguments."""
_SECONDS_TO_SHARE = 1.0
"""What rank 0 gets to tell the others that it leaves."""


def train(folder: Path, at: Process, stop: Stop, heartbeat: Heartbeat | None = None) -> int:
    """Train the run of a folder that `launcher.prepare.run_setup` has written. Returns 0, or 75 when told to stop."""
    stop.trains = True
    run = run_setup.read(folder)
    with disk_full.reported(folder), contextlib.ExitStack() as held:
        problems, steps = at.share(_enter(run, held, stop) if at.rank == 0 else None)
        if problems:  # told to all ranks, so that none waits for one that has left
            raise UserError(problems)
        resume = run.folder.saved(steps[-1]) if steps else None
        return _train(dataclasses.replace(run, resume=resume), at, stop, heartbeat or Heartbeat())


def _enter(run: run_setup.PreparedRun, held: contextlib.ExitStack, stop: Stop) -> tuple[list[str], list[int]]:
    """Rank 0 takes the right to write, and then looks which checkpoints are whole, for all ranks."""
    try:
        stop.lease = held.enter_context(run_setup.hold(run.folder))
        run.folder.mend_metrics()  # of a start before, that was killed, when a scheduler began this one
    except lease.LeaseLost as error:
        stop.heed(Reason.REPLACED)
        return [str(error)], []
    except UserError as error:
        return [str(problem) for problem in error.problems], []
    return [], [saved.step for saved in run.folder.whole()]


def evaluate(folder: Path, at: Process, which: str | int) -> dict[str, Any]:
    """The `metrics` of a checkpoint on the run's validation data, the same on every rank, and the task's `report`."""
    run = run_setup.read(folder)
    generates = run.recipe.inner_task.generates
    run = dataclasses.replace(run, recipe=layout.runnable(run.recipe, at.world, whole=generates))
    built, _ = build(run, at, Stop(), run.folder.saved(which))
    if built.validation is None:
        raise UserError(f"{run.folder.recipe}: data.validation: there is nothing to evaluate on (add it to the recipe)")
    task = built.task
    bare = getattr(built.engine.module, "module", built.engine.module)  # replicated: each rank has it whole
    made = loop.outputs(built, evaluation.Generating(task, bare) if generates else task)
    metrics = task.metrics(made)
    if generates:
        metrics |= task.scores(made, tokenizer.load(str(run.folder.tokenizer), "tokenizer"))
    report = task.report(made)
    named = {f"eval/{name}": value for name, value in metrics.items()}
    return {"metrics": {"step": built.progress.step, **named}, "report": report}


def measure(folder: Path, at: Process, stop: Stop, steps: int) -> dict[str, Any]:
    """The records of the first steps, and the most memory that any rank needed for them, in bytes. Nothing is saved;
    `stopped`: told to leave before the last."""
    made = run_setup.read(folder)
    plugins.strategy(made.recipe.strategy).load(at.device.type)
    with torch.device("meta"):  # code is no memory of the model's: have it loaded before
        plugins.model(made.recipe.model).build(model_requirements.of(made.recipe, made.facts), weights=False)
    peak = Peak(at.device)
    run, _ = build(made, at, stop, None, workers=0)
    begin, records, stopped = time.perf_counter(), [], False
    for _, batch in zip(range(steps), run.batches, strict=False):
        info = sync_step_info(run.process, batch, time.perf_counter() - begin, stop=stop.requested())
        if stopped := bool(info.stop):
            break
        records.append(loop.step(run, batch, info, begin))
        begin = time.perf_counter()
    return {"records": records, "memory": int(at.gather(np.array(peak.bytes())).max()), "stopped": stopped}


def _train(run: run_setup.PreparedRun, at: Process, stop: Stop, heartbeat: Heartbeat) -> int:
    """To the last step; where other parameters begin to train on the way, the model is built again there."""
    while True:
        step, code = _part(run, at, stop, heartbeat)
        if step is None:
            return code
        run = dataclasses.replace(run, resume=run.folder.saved(step))


def _part(run: run_setup.PreparedRun, at: Process, stop: Stop, heartbeat: Heartbeat) -> tuple[int | None, int]:
    """Train as long as the same parameters do. Returns the step to go on from, if any, and the exit code."""
    built, notes = build(run, at, stop, run.resume)
    built = dataclasses.replace(built, heartbeat=heartbeat)
    if built.progress.step == getattr(run.recipe.model, "unfreeze_at", None):
        notes = ["what was frozen trains from here on"]
    if at.rank == 0:
        built = dataclasses.replace(built, sinks=_sinks(run, built, notes))
    finished = False
    try:
        code = loop.train(built)
        more = code == loop.DONE and built.progress.step == built.until < built.steps
        finished = code == loop.DONE and not more
        if at.rank == 0 and finished and built.progress.step < built.steps:
            print(early_stopping.message(built.progress.history, run.recipe.evaluate), flush=True)
        return (built.progress.step if more else None), code
    except BaseException as error:
        error.add_note(f"at step {built.progress.step + 1}")
        raise
    finally:
        _close(built.sinks, finished, failing=sys.exc_info()[0] is not None)


def _close(sinks: Sequence[Sink[Plugin]], finished: bool, failing: bool) -> None:
    """Close every sink, then raise what the first of them raised; `failing`: another error is on its way, and speaks
    first."""
    errors = list[Exception]()
    for sink in sinks:
        try:
            sink.close(finished)
        except Exception as error:
            errors.append(error)
    if errors and not failing:
        raise errors[0]


def _sinks(run: run_setup.PreparedRun, built: Run, notes: list[str]) -> list[Sink[Plugin]]:
    recipe, progress = run.recipe, built.progress
    about = RunInfo(
        name=recipe.name, folder=run.folder.path, recipe=recipe.model_dump(mode="json"), steps=built.steps,
        start=progress.step, seconds=progress.seconds, tokens=progress.tokens, equation=run.plan.equation, notes=notes,
        skipped=progress.skipped, overflows=progress.overflows,
    )  # fmt: skip
    return [plugins.sink(sink, about) for sink in recipe.sinks]


def main(arguments: list[str]) -> int:
    """By hand: `[--trust KIND ...] RECIPE [key=value ...]`, the place told by the environment."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    arguments = [word for word in arguments if not _LOCAL_RANK.fullmatch(word)]
    while arguments[:1] == ["--trust"]:
        kinds.trust(arguments[1:2])
        arguments = arguments[2:]
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m launcher.worker [--trust KIND ...] RECIPE [key=value ...]", file=sys.stderr)
        return 2
    started = Started.of(os.environ)
    stop = Stop(started.folder / "stop" if started else None)
    stop.listen(started.launcher if started else None)
    end = _live(arguments, stop, started)
    if started is None:
        return end.code
    trace = "".join(traceback.format_exception(end.error)) if end.error else ""
    error = f"{type(end.error).__name__}: {end.error}" if end.error else ""
    started.report(end.rank, end.code, stop.heeded, end.problems, error, trace)
    return int(end.code == 1)  # a starter knows success and failure: the rest is for the launcher behind it


@dataclasses.dataclass(frozen=True)
class _End:
    """How a rank ended."""

    rank: int
    code: int
    problems: list[str] = dataclasses.field(default_factory=list)
    error: BaseException | None = None


def _live(arguments: list[str], stop: Stop, started: Started | None) -> _End:
    """From joining the others to the end, which is reported here where no launcher does it."""
    at, rank = None, int(os.environ.get("RANK") or 0)
    try:
        private_tmp.enter()
        at = _join(arguments[0], stop, started)
        rank = at.rank
        folder = _prepared(arguments, at, stop)
        beats = None
        if started is None:
            rank_log.copy(Path(folder), at.rank)
        else:
            rank_log.redirect(Path(folder), at.rank)
            beats = Heartbeat(started.folder / "heartbeats", launch_env.place().local_rank, at.rank)
        by_hand = started is None and at.rank == 0 and "LAUNCHER_JOB" not in os.environ
        with (
            local_run_record.recorded(RunDir(Path(folder)), at.world) if by_hand else contextlib.nullcontext() as record
        ):
            code = train(Path(folder), at, stop, beats)
            if record is not None:
                record.end(code, stop.heeded)
        at.close()
        return _End(rank, code)
    except StoppedBeforeTraining:
        before = "all ranks had met" if at is None else "training began"
        print(f"told to leave before {before}: nothing was trained", file=sys.stderr, flush=True)
        return _End(rank, loop.STOPPED)
    except UserError as error:
        if started is None and (at.rank == 0 if at is not None else _speaks()):
            print(error, file=sys.stderr, flush=True)
        return _End(rank, 2, [str(problem) for problem in error.problems])
    except (UnreachablePeer, RunReplaced) as error:
        print(error, file=sys.stderr, flush=True)
        return _End(rank, 1, error=error)
    except BaseException as caught:
        cause = failure.of_exit(caught)
        _say(cause, at, stop)
        return _End(rank, 1, error=cause)


def _speaks() -> bool:
    """Of ranks that have not met, one on each host says what is wrong."""
    try:
        return launch_env.place().local_rank == 0
    except UserError:
        return True


def _join(recipe: str, stop: Stop, started: Started | None) -> Process:
    """Find the other ranks of a start that the launcher's own agent did not make; each has to hear all others."""
    if wrong := launch_env.contradictions():
        raise UserError(wrong)
    here = launch_env.place()
    if here.world == 1:
        return process_group.connect(here)
    if Path(recipe).suffix and not Path(recipe).exists():
        what = f"rank {here.rank} on {rendezvous.host()} sees no such file in {Path.cwd()}"
        raise UserError(f"{recipe}: {what} (of several nodes each needs to see this folder)")
    if started is not None:
        store = starter_handshake.file_store(started.folder, here.world)
        return process_group.connect(here, store=store, timeout=timedelta(minutes=started.timeout))
    met = rendezvous.meet(here, lambda: bool(stop.requested()))
    at = process_group.connect(met.among(here), store=met.store, told=lambda: bool(stop.requested()))
    patiently(lambda: process_group.exchange(at, met.hosts), lambda: bool(stop.requested()))
    return at


def _say(error: BaseException, at: Process | None, stop: Stop) -> None:
    """The sentence, then the details. A rank that only lost another lets that one speak, and is ended
    by its starter."""
    rank = "a rank" if at is None else f"rank {at.rank}"
    if failure.lost_a_peer(str(error)):
        end = time.monotonic() + 5
        while time.monotonic() < end and not stop.told:
            time.sleep(0.02)
        if not stop.told:
            print(f"{rank} ended since it lost another, whose own words say why", file=sys.stderr, flush=True)
        return
    print(f"{rank} {failure.described(error)}", file=sys.stderr, flush=True)
    traceback.print_exception(error)


def _prepared(arguments: list[str], at: Process, stop: Stop) -> str:
    """The run folder that rank 0 has prepared, which the others wait for. Raises UserError, or StoppedBeforeTraining
    on every rank."""
    made: tuple[str, list[str]] | None = None
    if at.rank == 0:
        try:
            with signals.interrupting(private_tmp.leave):
                made = ("", []) if stop.told else _ready(arguments, at)
        except StopRequested:
            stop.told = Reason.STOP
            made = "", []
    folder, problems = patiently(lambda: at.share(made), lambda: bool(stop.told), _SECONDS_TO_SHARE)
    if problems:
        raise UserError(problems)
    if not folder:
        raise StoppedBeforeTraining
    return str(folder)


def _ready(arguments: list[str], at: Process) -> tuple[str, list[str]]:
    """Rank 0 plans and prepares; what is wrong is told once, and every rank leaves with the same code."""
    cluster, nodes = load.cluster("local").value, _nodes(at)
    here = cluster.model_copy(update={"nodes": (nodes, nodes)})
    try:
        folder = RunDir(plan.RUNS / load.recipe(arguments[0], arguments[1:]).value.name)
        checked = run_setup.check(arguments[0], arguments[1:], here, at.world // nodes, writable_folders.run(folder))
        made = run_setup.write(dataclasses.replace(checked, cluster=cluster))
    except UserError as error:
        return "", [str(problem) for problem in error.problems]
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return str(made.folder.path), []


def _nodes(at: Process) -> int:
    """Over how many machines the ranks are spread; one where they are not spread evenly."""
    here = launch_env.place()
    return 1 if at.world % here.local_world else at.world // here.local_world


def _leave(code: int) -> NoReturn:
    """End this process also where a thread of the user's code lives on."""
    sys.stdout.flush()
    sys.stderr.flush()
    private_tmp.leave()
    os._exit(code)


if __name__ == "__main__":
    output_streams.set_up(lasting=True)
    _leave(main(sys.argv[1:]))
