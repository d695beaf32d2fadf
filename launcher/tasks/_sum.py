"""A sum over ranks that keeps what is added: torchmetrics' own rounds its input to fp32."""

import torch
from torchmetrics import Metric


class Sum(Metric):
    """The fp64 sum of scalars, over all ranks."""

    value: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("value", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: torch.Tensor) -> None:
        self.value = self.value + value.double()

    def compute(self) -> torch.Tensor:
        return self.value
