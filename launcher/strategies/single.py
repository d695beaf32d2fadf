"""One process, no communication."""

from typing import TYPE_CHECKING, Any, Literal

from launcher.config.types import Plugin
from launcher.strategies import MemoryShare, UnwrappedModel

if TYPE_CHECKING:
    from launcher.plan.model_spec import Architecture


class Config(Plugin):
    kind: Literal["single"] = "single"


def check(config: Config, ranks: int) -> str | None:
    return None if ranks == 1 else f"single is one process, not {ranks} ranks (take ddp, or --ranks 1)"


def layouts(ranks: int) -> list[Config]:
    return [Config()] if ranks == 1 else []


def holding(config: Config, shape: "Architecture", ranks: int) -> MemoryShare:
    return MemoryShare()


def wrap(config: Config, bare: UnwrappedModel) -> Any:
    from launcher.strategies._torch_engine import TorchEngine
    from launcher.train import optim

    return TorchEngine(bare.model, bare.model, optim.make(bare.optimizer, bare.model))
