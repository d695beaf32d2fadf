"""TensorBoard: event files in <run>/tensorboard, with the resolved recipe as hyperparameters.

Each record is flushed, so that a killed rank loses none. A resumed run writes another file, before which TensorBoard
drops the steps that are taken again.
"""

import json
from typing import Any, ClassVar, Literal

from launcher import sinks
from launcher.config.recipe import flatten
from launcher.config.types import Plugin
from launcher.sinks import Record, RunInfo, numbers, warn

_FOLDER = "tensorboard"


class Config(Plugin):
    """TensorBoard event files in the run folder."""

    kind: Literal["tensorboard"] = "tensorboard"
    optional_modules: ClassVar[tuple[str, ...]] = ("tensorboard",)


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        from torch.utils.tensorboard import SummaryWriter

        self._start, self._writer, self._full = about.start, None, ""
        try:
            # a start from step 0 repeats its evaluation too; a later one has it in the checkpoint
            purge = about.start + 1 if about.start else 0
            self._writer = SummaryWriter(str(about.folder / _FOLDER), purge_step=purge)
            self._write_recipe(self._writer.file_writer, about)
            self._writer.flush()
        except OSError as error:
            self._lose(about.start + 1, error)

    def _write_recipe(self, file_writer: Any, about: RunInfo) -> None:
        """Write the recipe as the hyperparameters of this run, without a run of its own for them."""
        from torch.utils.tensorboard.summary import hparams

        values = {key: _hyperparameter(value) for key, value in flatten(about.recipe).items()}
        experiment, start, _ = hparams(values, {"loss": 0.0})
        file_writer.add_summary(experiment)
        file_writer.add_summary(start)

    def write(self, record: Record) -> None:
        if self._writer is None:
            return
        try:
            for name, value in numbers(record).items():
                self._writer.add_scalar(name, value, record["step"])
            self._writer.flush()
        except OSError as error:
            self._lose(record["step"], error)

    def close(self, finished: bool) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            self._lose(self._start, error)

    def _lose(self, step: int, error: OSError) -> None:
        """Warn that nothing is written from this step on."""
        self._writer = None
        warn(f"tensorboard: {error}; records from step {step} on are lost to it, training goes on")


def _hyperparameter(value: object) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
