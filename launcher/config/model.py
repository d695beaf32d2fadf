"""Keys that every kind of model has."""

from typing import Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from launcher.config.types import Plugin


class ModelSource(NamedTuple):
    """Origin of a model's architecture. `name`: folder, run or repository; `file`: path of the configuration in it."""

    name: str
    revision: str | None
    file: str


class Adapter(Plugin):
    """An adapter of peft. `kind` is the lower-case name of its type, such as lora.

    Further keys are passed to peft's configuration, which checks them when the plan counts parameters.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    r: int | None = Field(None, gt=0)
    """Rank. Default: peft's."""
    alpha: int | float | None = Field(None, gt=0)
    """Scale. Default: peft's."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of the adapter. Default: peft's."""
    targets: list[str] | str | None = Field(None, min_length=1)
    """Layers of the encoder to adapt: endings of their names, or one regular expression. Default: peft's choice for the
    architecture, or every linear layer."""


class ModelConfig(Plugin):
    """Keys of every model."""

    freeze: list[str] = []
    """Patterns of parameters that do not train. A pattern is matched against a parameter's name and against the names
    of the modules around it."""
    unfreeze_at: int | None = Field(None, gt=0)
    """Step from which frozen parameters train. Default: never."""
    adapter: Adapter | None = None
    """Adapter that trains in place of the encoder's parameters, which stay frozen also from `unfreeze_at` on."""
    batch_norm: Literal["frozen", "group"] | None = None
    """`frozen`: keep the statistics; `group`: replace batch normalization by group normalization (Wu and He, 2018).
    Default: refuse a model with batch normalization."""

    @field_validator("unfreeze_at")
    @classmethod
    def _needs_freeze(cls, value: int | None, known: ValidationInfo) -> int | None:
        if value is not None and not known.data.get("freeze", True):
            raise PydanticCustomError("unfreeze_at", "nothing is frozen (add freeze)")
        return value

    def at(self, step: int) -> Self:
        """Return the configuration in effect from step `step` on."""
        if self.unfreeze_at is None or step < self.unfreeze_at:
            return self
        return self.model_copy(update={"freeze": [], "unfreeze_at": None})

    @property
    def origin(self) -> str:
        """The architecture, function or run that the model is built from; may be empty."""
        return self.source.name if self.source is not None else ""

    @property
    def source(self) -> ModelSource | None:
        """Origin of the architecture: the repository or the run that is loaded; None: the recipe defines it."""
        if self.hub_repository is not None:
            return ModelSource(self.hub_repository.name, self.hub_repository.revision, "config.json")
        if self.run_reference is not None:
            return ModelSource(self.run_reference.run, None, "model/config.json")
        return None

    @property
    def pretrained(self) -> bool:
        """Whether training begins from weights that were trained before."""
        return self.hub_repository is not None or (self.run_reference is not None and self.run_reference.weights)

    @property
    def trusted_source(self) -> str | None:
        """Name of the folder or repository whose code the recipe allows to run; None: no such code is run."""
        return None

    @property
    def runs_own_code(self) -> bool:
        return super().runs_own_code or self.trusted_source is not None

    @property
    def attention_kernel(self) -> str | None:
        """Name of the attention implementation in transformers; None: the default one."""
        return None
