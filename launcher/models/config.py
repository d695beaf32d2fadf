"""A transformers model with new weights: `type` and any key of its configuration."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict

from launcher import models
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.models import _modeling_modules
from launcher.models._adaptation import adapted
from launcher.models._transformers import TransformersConfig, fit, make
from launcher.plan.model_requirements import ModelRequirements

if TYPE_CHECKING:
    import torch


class Config(TransformersConfig):
    """A transformers model with new weights. Further keys are passed to the transformers configuration, and are checked
    against it when the plan counts parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Literal["config"] = "config"
    type: str
    """Model type of transformers, such as bert or modernbert."""

    @property
    def origin(self) -> str:
        return self.type


class Model(models.Model[Config]):
    @property
    def imports(self) -> tuple[str, ...]:
        return _modeling_modules.of_type(self.config.type)

    def build(self, requirements: ModelRequirements, weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        from transformers import CONFIG_MAPPING

        if self.config.type not in CONFIG_MAPPING:
            raise UserError(
                Problem("model.type", f"unknown type {self.config.type!r} ({_close(self.config.type, CONFIG_MAPPING)})")
            )
        keys = self.config.model_extra or {}
        kind = CONFIG_MAPPING[self.config.type]
        known = set(kind().to_dict()) | set(getattr(kind, "attribute_map", {}))
        unknown = [
            Problem(f"model.{key}", f"unknown key of {kind.__name__} ({_close(key, known)})")
            for key in keys
            if key not in known
        ]
        if unknown:
            raise UserError(unknown)
        try:
            hf = kind(**keys)
        except Exception as error:  # transformers has its own types of these errors
            raise UserError(Problem("model", str(error).splitlines()[-1].strip())) from None
        model, notes = adapted(
            make(fit(hf, self.config, requirements, resize=True), self.config, requirements), self.config
        )
        ignored = [key for key in ("head", "reinit_layers") if getattr(self.config, key)]
        notes += [f"model.{key} does nothing: every weight of a new model is new" for key in ignored]
        return model, notes if weights else []


def _close(word: str, known: Iterable[str]) -> str:
    advice = hint(word, known)
    return advice if advice.startswith("did") else "see the transformers documentation"
