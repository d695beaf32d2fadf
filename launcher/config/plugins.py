"""The plug-in behind a Config, typed: what `launcher.config.kinds` finds by name."""

from typing import TYPE_CHECKING

from launcher.config import kinds
from launcher.config.types import Plugin, SchedulerConfig, StrategyConfig, TaskConfig

if TYPE_CHECKING:
    from launcher.data import Source
    from launcher.models import Model
    from launcher.schedulers import RenderedJob, Scheduler
    from launcher.sinks import RunInfo, Sink
    from launcher.strategies import Strategy
    from launcher.tasks import Task


def strategy(config: StrategyConfig) -> "Strategy":
    """The strategy of a Config."""
    built: Strategy = kinds.of("strategies", config).Strategy(config)
    return built


def task(config: TaskConfig) -> "type[Task]":
    """The class of a task."""
    found: type[Task] = kinds.of("tasks", config).Task
    return found


def source(config: Plugin) -> "Source":
    """The source of a Config."""
    built: Source = kinds.of("data", config).Source(config)
    return built


def model(config: Plugin) -> "Model":
    """The model of a Config."""
    built: Model = kinds.of("models", config).Model(config)
    return built


def sink(config: Plugin, run: "RunInfo") -> "Sink":
    """The sink of a Config, opened for a run, or for its continuation where `run.start` is above 0."""
    built: Sink = kinds.of("sinks", config).Sink(config, run)
    return built


def scheduler(config: SchedulerConfig) -> "Scheduler[RenderedJob]":
    """The scheduler of a Config."""
    built: Scheduler[RenderedJob] = kinds.of("schedulers", config).Scheduler(config)
    return built
