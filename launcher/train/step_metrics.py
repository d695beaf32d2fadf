"""Speed, utilisation and memory of a rank's device, for the training lines of metrics.jsonl."""

from dataclasses import dataclass

import torch

from launcher.config.cluster import Cluster
from launcher.distributed.process_group import ProcessGroup
from launcher.plan import model_requirements, model_spec
from launcher.plan.model_spec import Architecture
from launcher.plan.peak_flops import peak_flops
from launcher.plan.run_estimates import training_operations
from launcher.prepare.run_setup import PreparedRun
from launcher.sinks import Record
from launcher.tasks import Task
from launcher.train.device_meter import DeviceMeter
from launcher.train.step_sync import StepInfo


def peak(cluster: Cluster, device: torch.device, precision: str) -> float | None:
    """Return the FLOP/s that a device reaches at most: `peak_tflops` of the cluster profile, or else the published peak
    in this precision. None: not known."""
    if cluster.peak_tflops != "auto":
        return cluster.peak_tflops * 1e12
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), precision)


def meter(run: PreparedRun, task: Task, process: ProcessGroup, tokens: int, seconds: float) -> "StepMeter | None":
    """Return the measurement of a run's steps, on rank 0. The sizes of the model are only counted if a peak is known.
    `tokens`, `seconds`: of the run up to its first step."""
    if process.rank:
        return None
    recipe, device = run.recipe, process.device
    most = peak(run.cluster, device, recipe.train.precision)
    shape = None if most is None else model_spec.count(recipe, model_requirements.of(recipe, run.facts))
    of_device = DeviceMeter(device)
    return StepMeter(of_device, task, recipe.train.global_batch, process.world, shape, most, tokens, seconds)


@dataclass
class StepMeter:
    """Measures the steps of a run, one after the other.

    `devices`: number of ranks. `shape`: sizes of the model, and `peak`: FLOP/s of a device; without one of them there
    is no MFU. `tokens`, `seconds`: those of the run at the last measurement.
    """

    meter: DeviceMeter
    task: Task
    global_batch: int
    devices: int
    shape: Architecture | None = None
    peak: float | None = None
    tokens: int = 0
    seconds: float = 0.0

    def measure(self, info: StepInfo, tokens: int, seconds: float) -> Record:
        """Return the metrics of a step that has just ended, without those that are not known.

        `tokens`, `seconds`: of the run up to this step. `tokens_per_second`: of one device, since the measurement
        before.
        """
        since, new = seconds - self.seconds, tokens - self.tokens
        self.tokens, self.seconds = tokens, seconds
        reading = self.meter.read()
        values = {
            "tokens_per_second": round(new / since / self.devices, 1) if since > 0 else None,
            "mfu": self._mfu(info, since),
            "memory_allocated": reading.allocated,
            "memory_reserved": reading.reserved,
            "utilization": reading.utilization,
            "power": reading.power,
        }
        return {name: value for name, value in values.items() if value is not None}

    def _mfu(self, info: StepInfo, seconds: float) -> float | None:
        """Return the model FLOPs utilisation (Chowdhery et al., 2022): the arithmetic of the model for the step's
        tokens over the peak of all devices in this time. Padding and recomputation do not count."""
        if self.shape is None or self.peak is None or seconds <= 0:
            return None
        outputs = self.global_batch * self.task.output_size(round(info.tokens / self.global_batch))
        operations = training_operations(self.shape, info.tokens, info.squares, outputs)
        return None if operations is None else round(operations / (seconds * self.devices * self.peak), 4)
