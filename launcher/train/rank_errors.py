"""Errors of a rank's device in training, with the phase of the step and what to change in the recipe."""

from collections.abc import Iterator
from contextlib import contextmanager

from launcher.config.recipe import Recipe
from launcher.distributed import device_errors, launch_env
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.process_group import ProcessGroup
from launcher.plan import layout
from launcher.prepare.run_setup import PreparedRun
from launcher.train.out_of_memory import TooLarge

_FIXED = (Stage.STARTING, Stage.UPDATING, Stage.SAVING)
"""Stages in which most memory holds weights and optimiser state, and so does not depend on the micro-batch."""


@contextmanager
def explained(run: PreparedRun, process: ProcessGroup, heartbeat: Heartbeat) -> Iterator[None]:
    """Replace an error of the device that the block raises by one that says what happened, where, and what to do.

    `heartbeat`: knows the phase. Raises device_errors.OutOfMemory or DeviceError from the library's error, with its
    notes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        device, host, message = str(process.device), launch_env.host_name(), str(error)
        better: RuntimeError | None = device_errors.of_device(message, device, host)
        if isinstance(error, MemoryError) or device_errors.is_out_of_memory(message):
            stage = heartbeat.position.stage
            recipe = run.recipe
            if isinstance(error, TooLarge):
                train = recipe.train.model_copy(update={"max_tokens": error.tokens})
                recipe = recipe.model_copy(update={"train": train})
            advice = _advice(recipe, process.world, run.facts.longest, stage)
            if isinstance(error, TooLarge) and error.next_limit is not None:
                advice = f"the next start computes at most {error.next_limit} tokens at a time"
            better = device_errors.out_of_memory(message, device, host, stage.description, advice)
        if better is None:
            raise
        for note in getattr(error, "__notes__", ()):
            better.add_note(note)
        raise better from error


def _advice(recipe: Recipe, ranks: int, longest: int, stage: Stage) -> str:
    """Return what to change: a smaller micro-batch, or a strategy that shards more. `longest`: tokens of the longest
    sample."""
    samples = layout.micro(recipe, ranks, longest)[1]
    now = "not set" if recipe.train.max_tokens is None else f"now {recipe.train.max_tokens}"
    smaller = f"lower train.max_tokens ({now}: try {samples // 2 * longest})"
    if samples == 1:
        smaller = f"train.max_tokens ({now}) is one sample: try train.activation_checkpointing=layers"
    if stage not in _FIXED and samples > 1:
        return smaller
    return f"{smaller}; strategy.kind=fsdp shards what does not depend on it"
