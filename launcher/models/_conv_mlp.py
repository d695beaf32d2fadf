"""The torch module of the kind `small`."""

from math import prod

import torch

_ACTIVATIONS = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU, "tanh": torch.nn.Tanh}


class ConvMlp(torch.nn.Sequential):  # type: ignore[misc]
    """Convolutions over `shape` if there are `channels`, hidden layers, and a head of `labels` outputs.

    The forward takes the task's one tensor by any name, of shape (samples, *shape), and returns logits of shape
    (samples, labels).
    """

    def __init__(
        self, shape: tuple[int, ...], channels: list[int], hidden: list[int], labels: int, activation: str, drop: float
    ):
        super().__init__()
        act = _ACTIVATIONS[activation]
        size = shape
        for number, width in enumerate(channels):
            self.add_module(f"convolution{number}", torch.nn.Conv2d(size[0], width, 3, padding=1))
            self.add_module(f"convolution{number}_activation", act())
            self.add_module(f"convolution{number}_pool", torch.nn.MaxPool2d(2))
            size = (width, size[1] // 2, size[2] // 2)
        self.add_module("flatten", torch.nn.Flatten())
        flat = prod(size)
        for number, width in enumerate(hidden):
            self.add_module(f"hidden{number}", torch.nn.Linear(flat, width))
            self.add_module(f"hidden{number}_activation", act())
            self.add_module(f"hidden{number}_dropout", torch.nn.Dropout(drop))
            flat = width
        self.add_module("head", torch.nn.Linear(flat, labels))

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        (x,) = inputs.values()
        return super().forward(x)
