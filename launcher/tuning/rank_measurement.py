"""Measurement of settings on a rank: an engine is built once, and takes steps with the micro-batches of each setting.

The learning rate is zero for all parameters, so that the weights stay the same. So the losses of a step can be compared
between settings, whatever was measured before.
"""

import ctypes
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from launcher.build import build
from launcher.config import plugins, strict_json
from launcher.config.errors import UserError, first_line
from launcher.config.types import ScheduleConfig
from launcher.contract import digest
from launcher.distributed import device_errors, failure
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.lr_schedules import Evaluation, Schedule
from launcher.prepare import run_setup
from launcher.prepare.run_setup import PreparedRun
from launcher.train import loop, out_of_memory
from launcher.train.batch_loader import BatchLoader, worker_processes
from launcher.train.data_loader import RankBatches
from launcher.train.memory_meter import Peak
from launcher.train.step_sync import StepInfo, sync_step_info
from launcher.train.training_run import Run
from launcher.tuning import journal, search
from launcher.tuning.journal import TOO_LARGE, Entry, Measured, Trial
from launcher.tuning.results import Results
from launcher.tuning.setting import Setting


class _Zero(Schedule[ScheduleConfig]):
    """A learning rate of zero. An optimiser multiplies each of its rates by the factor of the schedule."""

    def factor(self, step: int, evaluations: Sequence[Evaluation] = ()) -> float:
        return 0.0

    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return 0.0


class _Stopped(Exception):
    """A rank was asked to stop."""


def measure_all(folder: Path, group: ProcessGroup, stop: StopMonitor) -> bool:
    """Measure what the search wants, on from what the journal in the folder has. Returns whether a stop was requested.
    Raises UserError after a setting that ends the ranks; they may be started again."""
    space = strict_json.read(folder / search.FILE, search.Space, "launcher tune writes it")
    known = group.broadcast(journal.read(folder) if group.rank == 0 else None)
    bench = _Bench(run_setup.load(folder), group, stop, space)
    wanted = search.trials(space, Results(space.written, space.tolerance))
    try:
        trial = next(wanted)
        while True:
            trial = wanted.send(_known(trial, known) or _recorded(bench, folder, trial))
    except StopIteration:
        return False
    except _Stopped:
        return True


def _known(trial: Trial, known: list[Entry]) -> Measured | None:
    """Take the result of a trial from the journal; None: it is not there."""
    if not known or known[0].measured is None:
        return None
    entry = known.pop(0)
    assert entry.trial == trial, "the journal has the results of another search"
    return entry.measured


def _recorded(bench: "_Bench", folder: Path, trial: Trial) -> Measured:
    """Measure a trial, with its begin and end in the journal. Raises UserError after an error: other ranks may wait for
    this one, so that all have to be started again."""
    if bench.group.rank == 0:
        journal.begin(folder, trial)
    try:
        measured = bench.measure(trial)
    except (UserError, RuntimeError, MemoryError) as error:
        if failure.lost_a_peer(str(error)):
            raise
        no_memory = isinstance(error, MemoryError) or device_errors.is_out_of_memory(str(error))
        wrong = TOO_LARGE if no_memory else first_line(error)[:200]
        journal.end(folder, Measured(wrong=wrong, clock=time.time() - bench.space.begun))
        raise UserError(wrong) from error
    if bench.group.rank == 0:
        journal.end(folder, measured)
    return measured


class _Built(NamedTuple):
    """An engine. `name`: that of its settings. `dataset`: of its batches, without padding if the model allows it.
    `peak`: memory since before it was built."""

    name: str
    run: Run
    dataset: RankBatches
    peak: Peak


class _Bench:
    """A prepared run of which settings are measured. At most one engine exists at a time."""

    def __init__(self, prepared: PreparedRun, group: ProcessGroup, stop: StopMonitor, space: search.Space):
        self.group, self.space = group, space
        self._prepared, self._stop = prepared, stop
        self._linear = torch.nn.functional.linear
        self._built: _Built | None = None

    def measure(self, trial: Trial) -> Measured:
        """Return the result of a trial, the same on all ranks. Raises _Stopped."""
        begin, setting = time.perf_counter(), trial.setting
        built, is_new = self._engine(setting)
        seconds = time.perf_counter() - begin
        run, device = built.run, self.group.device
        free = built.dataset.padding_free and setting.padding_free is not False
        dataset = dataclasses.replace(built.dataset, max_tokens=setting.max_tokens, padding_free=free)
        stop, workers = trial.first + trial.count, worker_processes(setting.applied(run.recipe), run.process)
        run.batches = BatchLoader(dataset, trial.first - trial.warm, stop, workers, device.type != "cpu")
        run.progress.step, run.progress.out_of_memory = trial.first - trial.warm, 0
        if not is_new:
            _trim(device)
            built.peak.restart()
        steps = list(self._steps(run))[trial.warm :]
        too_large = self.group.all_gather(np.array(run.progress.out_of_memory)).any()
        waited, computed = sum(step.info.wait for step in steps), sum(step.info.padded for step in steps)
        measured = Measured(
            seconds=[step.seconds for step in steps],
            losses=[step.loss if math.isfinite(step.loss) else None for step in steps],
            data=[digest.text(step.info.digest) for step in steps],
            tokens=(tokens := [step.info.tokens for step in steps]),
            fill=sum(tokens) / max(1, computed), waited=waited / sum(step.seconds for step in steps),
            memory=int(self.group.all_gather(np.array(built.peak.bytes())).max()),
            micro_batches=int(self.group.all_gather(np.array(max(step.micro_batches for step in steps))).max()),
            padding_free=free,
            clock=time.time() - self.space.begun, built=seconds if is_new else 0.0,
            wrong=TOO_LARGE if too_large else "",
        )  # fmt: skip
        return self.group.broadcast(measured)

    def _steps(self, run: Run) -> Iterator["_Step"]:
        """Take the steps of the run's batches. Raises _Stopped on all ranks."""
        batches = iter(run.batches)
        while True:
            begin = time.perf_counter()
            if (batch := next(batches, None)) is None:
                return
            wait = time.perf_counter() - begin
            info = sync_step_info(run.process, batch, wait, stop=self._stop.requested())
            if info.stop:
                raise _Stopped
            loss = loop.step(run, batch, info, begin)["loss"]
            if self.group.device.type != "cpu":
                torch.accelerator.synchronize()  # the update is queued after what the step waits for
            yield _Step(time.perf_counter() - begin, loss, info, len(batch.micro_batches))

    def _engine(self, setting: Setting) -> tuple[_Built, bool]:
        """Return the engine of a setting, and whether it was built now. Raises UserError."""
        if self._built is not None and self._built.name == setting.engine:
            return self._built, False
        self._leave()
        peak = Peak(self.group.device)
        free = setting.padding_free if setting.padding_free is True else "auto"
        recipe = setting.but(padding_free=free).applied(self._prepared.recipe)
        plugins.strategy(recipe.strategy).load(self.group.device.type)
        prepared = dataclasses.replace(self._prepared, recipe=recipe)
        run, _ = build(prepared, self.group, self._stop, None, workers=0)
        run.schedule = _Zero(recipe.schedule, run.steps)
        self._built = _Built(setting.engine, run, run.batches.dataset, peak)
        return self._built, True

    def _leave(self) -> None:
        """Release the memory of the engine."""
        if self._built is not None:
            self._built.run.saver.close()
        self._built = None
        torch.nn.functional.linear = self._linear  # DeepSpeed's third stage replaces it for good
        out_of_memory.release(self.group.device)
        _trim(self.group.device)


class _Step(NamedTuple):
    """A step that was taken. `micro_batches`: their number."""

    seconds: float
    loss: float
    info: StepInfo
    micro_batches: int


def _trim(device: torch.device) -> None:
    """Return freed memory to the system, so that the resident set is what is in use. Only glibc can."""
    if device.type == "cpu":
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
