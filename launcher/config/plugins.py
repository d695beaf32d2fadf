"""Plug-ins of Configs, with their types (see launcher.config.kinds)."""

from typing import TYPE_CHECKING

from launcher.config import kinds
from launcher.config.model import ModelConfig
from launcher.config.types import Plugin, StrategyConfig, TaskConfig

if TYPE_CHECKING:
    from launcher.data import Source
    from launcher.models import Model
    from launcher.sinks import RunInfo, Sink
    from launcher.strategies import Strategy
    from launcher.tasks import Task


def strategy(config: StrategyConfig) -> "Strategy":
    """Build the strategy of a Config."""
    built: Strategy = kinds.of("strategies", config).Strategy(config)
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


def sink(config: Plugin, run: "RunInfo") -> "Sink":
    """Open the sink of a Config for a run, or for a resumed run where `run.start` is above 0."""
    built: Sink = kinds.of("sinks", config).Sink(config, run)
    return built
