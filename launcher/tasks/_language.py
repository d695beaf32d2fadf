"""What language models share: the loss of predicted tokens, summed, and its metrics."""

from typing import TYPE_CHECKING, Any

import numpy as np

from launcher.tasks import IGNORE, Batch

if TYPE_CHECKING:
    import torch


class Language:
    """A task gives `_logits(model, batch)`, of shape (n, vocabulary), for the n labels of `batch["labels"]`."""

    def _logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        raise NotImplementedError

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        loss = cross_entropy(self._logits(model, batch), labels, ignore_index=IGNORE, reduction="sum")
        return loss, float((labels != IGNORE).sum())

    def meters(self) -> Any:
        from torchmetrics import MetricCollection

        from launcher.tasks._sum import Sum

        return MetricCollection({name: Sum() for name in ("loss", "weight", "correct")}, compute_groups=False)

    def measure(self, meters: Any, model: "torch.nn.Module", batch: Batch) -> None:
        from torch.nn.functional import cross_entropy

        labels, logits = batch["labels"], self._logits(model, batch)
        meters["loss"].update(cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum"))
        meters["weight"].update((labels != IGNORE).sum())
        meters["correct"].update((logits.argmax(-1) == labels).sum())

    def summary(self, meters: Any) -> dict[str, float]:
        sums = {name: float(value) for name, value in meters.compute().items()}
        weight = max(1.0, sums["weight"])
        loss = sums["loss"] / weight
        return {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0))), "accuracy": sums["correct"] / weight}
