"""A small model for numbers or images in plain torch, for tables, digits and experiments."""

from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from launcher import models
from launcher.config.errors import Problem, UserError
from launcher.config.model import ModelConfig
from launcher.config.types import JsonObject
from launcher.models._adaptation import adapted
from launcher.plan.model_requirements import ModelRequirements

if TYPE_CHECKING:
    import torch

_DEFAULTS: dict[str, JsonObject] = {
    "linear": {},
    "mlp": {"hidden": [256], "dropout": 0.0, "activation": "relu"},
    "cnn": {"channels": [32, 64], "hidden": [256], "dropout": 0.0, "activation": "relu"},
}
Size = Annotated[int, Field(gt=0)]


class Config(ModelConfig):
    """A small network for images or numbers."""

    kind: Literal["small"] = "small"
    type: Literal["linear", "mlp", "cnn"]
    """`linear`, `mlp` (hidden layers), or `cnn` (blocks, then hidden layers). A block is a 3 x 3 convolution and a
    pooling that halves the image."""
    channels: list[Size] | None = Field(None, min_length=1)
    """Channels of each block of a cnn."""
    hidden: list[Size] | None = None
    """Units of each hidden layer."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate after each hidden layer."""
    activation: Literal["relu", "gelu", "tanh"] | None = None
    """Activation after each convolution and hidden layer."""

    @property
    def origin(self) -> str:
        return self.type

    @field_validator("channels", "hidden", "dropout", "activation")
    @classmethod
    def _of_the_type(cls, value: object, info: ValidationInfo) -> object:
        """Return the value, or the type's default for None. Raises an error for a key that the type does not use."""
        name = str(info.field_name)
        keys = _DEFAULTS.get(info.data.get("type", ""), {name: value})
        if value is not None and name not in keys:
            context = {"type": info.data["type"], "keys": ", ".join(keys) or "none"}
            raise PydanticCustomError(
                "unused", "a {type} model does not use it (of these keys it uses: {keys})", context
            )
        return keys.get(name) if value is None else value


class Model(models.Model[Config]):
    def build(self, requirements: ModelRequirements, weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        from launcher.models import _conv_mlp

        labels = requirements.options.get("num_labels")
        if not requirements.shape or labels is None:
            what = "a small model turns numbers of one shape into labels, which is not what this task needs"
            raise UserError(Problem("model", what))
        if self.config.type == "cnn":
            _check_images(self.config, requirements)
        hidden, channels = self.config.hidden or [], self.config.channels or []
        made = _conv_mlp.ConvMlp(
            requirements.shape, channels, hidden, labels, self.config.activation or "relu", self.config.dropout or 0.0
        )
        model, notes = adapted(made, self.config)
        return model, notes if weights else []


def _check_images(config: Config, requirements: ModelRequirements) -> None:
    shape = " x ".join(map(str, requirements.shape))
    if len(requirements.shape) != 3:
        raise UserError(Problem("model.type", f"a cnn needs channels x height x width, a sample is {shape} (take mlp)"))
    times = len(config.channels or [])
    if not requirements.guessed and not prod(side >> times for side in requirements.shape[1:]):
        raise UserError(Problem("model.channels", f"halved {times} times, nothing is left of {shape}"))
