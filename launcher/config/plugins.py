"""Typed access to the plug-in of a Config (see launcher.config.kinds)."""

from typing import TYPE_CHECKING

from launcher.config import kinds
from launcher.config.model import ModelConfig
from launcher.config.types import OptimizerConfig, Plugin, ScheduleConfig, SchedulerConfig, StrategyConfig, TaskConfig

if TYPE_CHECKING:
    from launcher.data import Source
    from launcher.lr_schedules import Schedule
    from launcher.models import Model
    from launcher.optimizers import Optimizer
    from launcher.schedulers import RenderedJob, Scheduler
    from launcher.sinks import RunInfo, Sink
    from launcher.strategies import Strategy
    from launcher.tasks import Task


def strategy(config: StrategyConfig) -> "Strategy[StrategyConfig]":
    """Build the strategy of a Config."""
    built: Strategy[StrategyConfig] = kinds.of("strategies", config).Strategy(config)
    return built


def task(config: TaskConfig) -> "type[Task]":
    """Return the task class of a Config."""
    found: type[Task] = kinds.of("tasks", config).Task
    return found


def source(config: Plugin) -> "Source":
    """Build the source of a Config."""
    built: Source = kinds.of("data", config).Source(config)
    return built


def model(config: ModelConfig) -> "Model[ModelConfig]":
    """Build the model of a Config."""
    built: Model[ModelConfig] = kinds.of("models", config).Model(config)
    return built


def sink(config: Plugin, run: "RunInfo") -> "Sink[Plugin]":
    """Open the sink of a Config for a run. If `run.start` is above 0, the run is a resumed one."""
    built: Sink[Plugin] = kinds.of("sinks", config).Sink(config, run)
    return built


def optimizer(config: OptimizerConfig) -> "Optimizer[OptimizerConfig]":
    """Build the optimiser of a Config."""
    built: Optimizer[OptimizerConfig] = kinds.of("optimizers", config).Optimizer(config)
    return built


def schedule(config: ScheduleConfig, steps: int) -> "Schedule[ScheduleConfig]":
    """Build the learning-rate schedule of a Config, for a run of `steps` steps."""
    built: Schedule[ScheduleConfig] = kinds.of("lr_schedules", config).Schedule(config, steps)
    return built


def is_queued(config: SchedulerConfig) -> bool:
    """Return whether the scheduler of a Config has a queue for `launcher submit`."""
    found: type[Scheduler[RenderedJob]] = kinds.of("schedulers", config).Scheduler
    return found.queued


def scheduler(config: SchedulerConfig) -> "Scheduler[RenderedJob]":
    """Build the scheduler of a Config."""
    built: Scheduler[RenderedJob] = kinds.of("schedulers", config).Scheduler(config)
    return built
