"""Checks of the step on an accelerator: synchronisations, pinned copies, and step times at variable lengths."""

import dataclasses
import warnings

from benchmarks.gpu import training
from benchmarks.gpu.harness import Figures, Machine, Mismatch

_STEPS = 12
_MOST_PER_STEP = 1.0
"""Synchronisations that a step may have on average."""


def synchronizations(machine: Machine) -> Figures:
    """Count the synchronisations of each step by torch's own debug mode, and check that batches are pinned."""
    machine.require_accelerator()
    import torch

    from launcher.train import loop

    figures: Figures = {}
    for task, options in {"mlm": [], "classification": ["data.validation=null"]}.items():
        keys = [f"train.steps={_STEPS}", f"name=synchronizations-{task}", *options]
        built = training.build_here(training.set_up(machine, task, *keys))
        counter = _Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = counter.warn  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            loop.train(dataclasses.replace(built, sinks=[counter]))
            torch.cuda.set_sync_debug_mode("default")
        per_step = counter.per_step()
        figures[task] = {"per step": per_step, "places": counter.places}
        if max(per_step[3:-1]) > _MOST_PER_STEP:
            raise Mismatch(f"{task}: {max(per_step[3:-1])} synchronisations in a step", figures)
        batch = next(iter(built.batches))
        if not all(tensor.is_pinned() for tensor in _tensors(batch.micro_batches)):
            raise Mismatch(f"{task}: the tensors of a batch are not pinned", figures)
    return figures


class _Counter(training.Recorder):
    """A sink that counts torch's warnings of synchronisations between records."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.at_records: list[int] = []
        self.places: dict[str, int] = {}

    def warn(self, message: Warning, category: type, filename: str, lineno: int, *_: object) -> None:
        """Count a warning of a synchronisation."""
        if "synchroniz" in str(message):
            self.total += 1
            place = f"{filename.rpartition('/')[2]}:{lineno}"
            self.places[place] = self.places.get(place, 0) + 1

    def write(self, record: training.Record) -> None:
        super().write(record)
        self.at_records.append(self.total)

    def per_step(self) -> list[int]:
        """Return the number of synchronisations between the records of neighbouring steps."""
        return [after - before for before, after in zip([0, *self.at_records], self.at_records, strict=False)]


def step_times(machine: Machine) -> Figures:
    """Return the distribution of step times at natural lengths. No step may be far slower than the median, as when a
    kernel is planned anew for each length."""
    small = training.SMALL if machine.rehearses else ()
    _, records = training.train_here(machine, "fine-tune", *small, "name=step-times")
    seconds = sorted(training.step_seconds(records)[3:])
    median = training.median(seconds)
    figures: Figures = {"median": median, "p90": seconds[int(0.9 * len(seconds))], "max": seconds[-1]}
    figures["ms"] = [round(1000 * second, 1) for second in seconds]
    if not machine.rehearses and seconds[-1] > 4 * median:
        raise Mismatch(f"a step takes {seconds[-1]:.3f} s, the median {median:.3f} s", figures)
    return figures


def _tensors(value: object) -> list:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [tensor for item in inner for tensor in _tensors(item)]
