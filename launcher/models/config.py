"""A transformers architecture from scratch: `type` and any key of its configuration."""

from typing import Any, Literal

from pydantic import ConfigDict

from launcher import models
from launcher.config.errors import Problem, UserError
from launcher.config.types import hint
from launcher.models._adaptation import adapted
from launcher.models._transformers import TransformersConfig, fit, make
from launcher.plan.model_requirements import ModelRequirements


class Config(TransformersConfig):
    """A transformers model with new weights. Further keys go to its transformers configuration, and are checked against
    it when the plan counts parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Literal["config"] = "config"
    type: str
    """Model type of transformers, such as bert or modernbert."""

    @property
    def origin(self) -> str:
        return self.type


class Model(models.Model):
    imports = ("transformers.modeling_utils",)

    def __init__(self, config: Config):
        self.config = config

    def tokenizer(self) -> str | None:
        return None

    def build(self, need: ModelRequirements, weights: bool = True) -> tuple[Any, list[str]]:
        from transformers import CONFIG_MAPPING

        if self.config.type not in CONFIG_MAPPING:
            raise UserError(
                Problem("model.type", f"unknown type {self.config.type!r} ({_close(self.config.type, CONFIG_MAPPING)})")
            )
        given = self.config.model_extra or {}
        kind = CONFIG_MAPPING[self.config.type]
        known = set(kind().to_dict()) | set(getattr(kind, "attribute_map", {}))
        unknown = [
            Problem(f"model.{key}", f"unknown key of {kind.__name__} ({_close(key, known)})")
            for key in given
            if key not in known
        ]
        if unknown:
            raise UserError(unknown)
        try:
            hf = kind(**given)
        except Exception as error:  # transformers has types of its own for these
            raise UserError(Problem("model", str(error).splitlines()[-1].strip())) from None
        model, notes = adapted(make(fit(hf, self.config, need, resize=True), self.config, need), self.config)
        drawn = [key for key in ("head", "reinit_layers") if getattr(self.config, key)]
        notes += [f"model.{key} does nothing: every weight of a new model is new" for key in drawn]
        return model, notes if weights else []


def _close(word: str, known: Any) -> str:
    found = hint(word, known)
    return found if found.startswith("did") else "see the transformers documentation"
