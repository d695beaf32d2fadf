"""One process, no communication."""

from typing import TYPE_CHECKING, Any, Literal

from launcher.config.types import Plugin

if TYPE_CHECKING:
    import torch


class Config(Plugin):
    kind: Literal["single"] = "single"


def check(config: Config, ranks: int) -> str | None:
    return None if ranks == 1 else f"single is one process, not {ranks} ranks (take ddp, or --ranks 1)"


def wrap(config: Config, model: "torch.nn.Module", optimizer: Any, process: Any, clip: float | None) -> Any:
    from launcher.strategies._replicated import Replicated

    return Replicated(model, model, optimizer, clip)
