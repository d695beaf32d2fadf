"""The models that a recipe may train. A kind is one module here with a `Config` (a subclass of
`launcher.config.model.ModelConfig`) and a class `Model` that extends the one below; the file is the registration.
Import torch and transformers inside functions: a plan reads every Config on a login node. `build` also runs on the meta
device (`weights=False`), to count parameters, and ends with `adapted`: freezing, adapters and normalization are the
same for every kind.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from launcher.config.model import ModelConfig
from launcher.models._adaptation import adapted

if TYPE_CHECKING:
    import torch

    from launcher.config.recipe import PretrainedTokenizer
    from launcher.plan.model_requirements import ModelRequirements

__all__ = ["Model", "adapted"]

C = TypeVar("C", bound=ModelConfig)


class Model(ABC, Generic[C]):
    """Builds a model and names its tokenizer. Base class of the models; each is built from the Config of its kind."""

    imports: tuple[str, ...] = ()
    """Modules that take seconds to import and do not use a device. The ranks of a machine are forked from a process
    that has imported them."""

    def __init__(self, config: C):
        self.config = config

    def tokenizer(self) -> "PretrainedTokenizer | str | None":
        """The model's own tokenizer: a folder, or a name on the hub with its revision; None: it has none."""
        return None

    @abstractmethod
    def build(self, requirements: "ModelRequirements", weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        """Build the model on the current device. Returns it with notes for the user. New weights are drawn from torch's
        generator, which the caller has seeded. `weights=False`: the architecture alone. Raises UserError."""
