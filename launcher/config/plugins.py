"""Plug-ins of Configs, with their types (see launcher.config.kinds)."""

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
    """The task class of a Config."""
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
    """Open the sink of a Config for a run, or for a resumed run where `run.start` is above 0."""
    built: Sink[Plugin] = kinds.of("sinks", config).Sink(config, run)
    return built


def optimizer(config: OptimizerConfig) -> "Optimizer[OptimizerConfig]":
    """Build the optimiser of a Config."""
    built: Optimizer[OptimizerConfig] = kinds.of("optimizers", config).Optimizer(config)
    return built


def schedule(config: ScheduleConfig, steps: int) -> "Schedule[ScheduleConfig]":
    """Build the learning-rate schedule of a Config, for a run of so many steps."""
    built: Schedule[ScheduleConfig] = kinds.of("lr_schedules", config).Schedule(config, steps)
    return built


def is_queued(config: SchedulerConfig) -> bool:
    """Whether the scheduler of a Config has a queue, which `launcher submit` hands jobs to."""
    found: type[Scheduler[RenderedJob]] = kinds.of("schedulers", config).Scheduler
    return found.queued


def scheduler(config: SchedulerConfig) -> "Scheduler[RenderedJob]":
    """The scheduler of a Config."""
    built: Scheduler[RenderedJob] = kinds.of("schedulers", config).Scheduler(config)
    return built
