"""torch's DistributedDataParallel: every rank holds the model, gradients are averaged while the backward runs.

On one rank there is nothing to average, and the model runs as it is.
"""

from typing import TYPE_CHECKING, Any, Literal

from launcher.config.types import Plugin

if TYPE_CHECKING:
    import torch

    from launcher.run.process import Process


class Config(Plugin):
    kind: Literal["ddp"] = "ddp"


def wrap(config: Config, model: "torch.nn.Module", optimizer: Any, process: "Process", clip: float | None) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    from launcher.strategies._replicated import Replicated

    if process.world == 1:
        return Replicated(model, model, optimizer, clip)
    ids = None if process.device.type == "cpu" else [process.device.index]
    module = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    module.broadcast_buffers = False  # they are equal from the start, and nothing here changes them
    return Replicated(module, model, optimizer, clip)
