"""One process, no communication."""

from typing import TYPE_CHECKING, Literal

from launcher import strategies
from launcher.config.types import StrategyConfig
from launcher.strategies import Engine, EngineParts, MemoryShare

if TYPE_CHECKING:
    from launcher.plan.model_spec import Architecture


class Config(StrategyConfig):
    """One rank, without a process group."""

    kind: Literal["single"] = "single"


class Strategy(strategies.Strategy[Config]):
    def check(self, ranks: int) -> str | None:
        return None if ranks == 1 else f"single is one process, not {ranks} ranks (take ddp, or --ranks 1)"

    @staticmethod
    def layouts(ranks: int) -> list[Config]:
        return [Config()] if ranks == 1 else []

    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        return MemoryShare()

    def wrap(self, unwrapped: EngineParts) -> Engine:
        from launcher.strategies._torch_engine import TorchEngine

        return TorchEngine(unwrapped.model, unwrapped.model, unwrapped.optimizer.for_model(unwrapped.model))
