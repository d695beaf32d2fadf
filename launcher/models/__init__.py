"""What is trained. A kind is one module here with a `Config` (a subclass of `launcher.config.model_config.ModelConfig`)
and a class `Model` that extends the one below; the file is the registration.

Import torch and transformers inside functions: a plan reads every Config on a login node. `build` runs on the meta
device too (`weights=False`), to count parameters, and ends with `launcher.models._adaptation.adapted`: freezing,
adapters and normalisation are the same for every kind.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from launcher.config.recipe import PretrainedTokenizer
    from launcher.plan.model_requirements import ModelRequirements


class Model(ABC):
    """The model of one Config."""

    imports: tuple[str, ...] = ()
    """What takes seconds to import and leaves devices alone: the ranks of a machine are forked from a process that has
    imported it."""

    @abstractmethod
    def __init__(self, config: Any): ...

    def tokenizer(self) -> "PretrainedTokenizer | str | None":
        """The model's own tokenizer: a folder or hub name, with its revision where it has one; or None."""
        return None

    @abstractmethod
    def build(self, need: "ModelRequirements", weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        """The model on the current device, and notes for the user. New weights are drawn from torch's generator, which
        the caller has seeded. `weights=False`: the architecture alone. Raises UserError."""
