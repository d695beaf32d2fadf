"""The plug-in behind a Config, typed: what `launcher.config.kinds` finds by name."""

from typing import TYPE_CHECKING

from launcher.config import kinds
from launcher.config.types import StrategyConfig, TaskConfig

if TYPE_CHECKING:
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
