"""The models that a recipe may train.

Each kind is one module of this package. It defines a `Config` (a subclass of `launcher.config.model.ModelConfig`) and a
class `Model` that extends the class below. There is no other registration. Import torch and transformers inside
functions, because a plan imports the module on a login node. `build` also runs on the meta device (`weights=False`), to
count parameters. It ends with `adapted`, so that freezing, adapters and normalization are the same for every kind.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from launcher.config.model import ModelConfig
from launcher.models._adaptation import adapted

if TYPE_CHECKING:
    import torch

    from launcher.config.tokenizer import PretrainedTokenizer
    from launcher.plan.model_requirements import ModelRequirements

__all__ = ["Model", "adapted"]

C = TypeVar("C", bound=ModelConfig)


class Model(ABC, Generic[C]):
    """Builder of a model, which also names the model's tokenizer. Base class of the models; each is created from the
    Config of its kind."""

    def __init__(self, config: C):
        self.config = config

    @property
    def imports(self) -> tuple[str, ...]:
        """Modules that take seconds to import and do not use a device. The ranks of a machine are forked from a process
        that has imported those that can be imported."""
        return ()

    def tokenizer(self) -> "PretrainedTokenizer | str | None":
        """Return the model's own tokenizer: a folder, or a name on the hub with its revision; None: there is none."""
        return None

    @abstractmethod
    def build(self, requirements: "ModelRequirements", weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        """Build the model on the current device, and return it with notes for the user. New weights are drawn from
        torch's generator, which the caller has seeded. `weights=False`: the architecture only. Raises UserError."""
