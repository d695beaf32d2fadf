"""Settings: the keys of a recipe that `launcher tune` changes. They affect speed and memory, never the trajectory."""

from typing import Literal

from launcher.config import kinds
from launcher.config.base_model import Strict
from launcher.config.recipe import Recipe, Strategy
from launcher.config.types import JsonObject, StrategyConfig

KEYS = (
    "strategy", "train.max_tokens", "train.padding_free", "train.compile", "train.activation_checkpointing",
    "train.workers",
)  # fmt: skip
"""Keys of a setting. All of them are in recipe.PERFORMANCE."""


class Setting(Strict):
    """Values of the keys of a recipe that affect its speed. See launcher.config.training.Train."""

    strategy: Strategy
    max_tokens: int | None
    padding_free: Literal["auto"] | bool
    compile: bool
    activation_checkpointing: str
    workers: Literal["auto"] | int

    @classmethod
    def of(cls, recipe: Recipe) -> "Setting":
        """Return the setting in a recipe."""
        train = recipe.train
        return cls(
            strategy=recipe.strategy, max_tokens=train.max_tokens, padding_free=train.padding_free,
            compile=train.compile, activation_checkpointing=train.activation_checkpointing, workers=train.workers,
        )  # fmt: skip

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the recipe with this setting."""
        train = {name: getattr(self, name) for name in type(self).model_fields if name != "strategy"}
        return recipe.model_copy(update={"strategy": self.strategy, "train": recipe.train.model_copy(update=train)})

    def but(self, **changes: object) -> "Setting":
        """Return the setting with other values."""
        return self.model_copy(update=changes)

    @property
    def engine(self) -> str:
        """Text that is equal for settings under which the same engine trains, only with other micro-batches."""
        padding = "padded" if self.compile else str(self.padding_free is True)
        parts = (self.strategy.model_dump_json(), str(self.compile), self.activation_checkpointing, padding)
        return "\n".join(parts)

    def changes(self, written: "Setting") -> JsonObject:
        """Return the keys whose value is not that of another setting, by their dotted names. The kind of a strategy is
        there if any of its keys is."""
        own, other = self.model_dump(mode="json"), written.model_dump(mode="json")
        found = {f"train.{name}": value for name, value in own.items() if name != "strategy" and value != other[name]}
        return _of_strategy(self.strategy, written.strategy) | found

    def label(self, written: "Setting") -> str:
        """Return the changes in one line, as on a command line; `as written` for none."""
        changes = self.changes(written)
        if self.strategy.kind == written.strategy.kind:
            changes.pop("strategy.kind", None)
        return " ".join(f"{_short(key)}={value_text(value)}" for key, value in changes.items()) or "as written"


def _of_strategy(own: StrategyConfig, other: StrategyConfig) -> JsonObject:
    """Return the keys of a strategy that differ from another one, or from the defaults of its kind."""
    same = own.kind == other.kind
    plain = other if same else kinds.config_class("strategies", own.kind, StrategyConfig)(kind=own.kind)
    expected = plain.model_dump(mode="json")
    found = {key: value for key, value in own.model_dump(mode="json").items() if value != expected[key]}
    if same and not found:
        return {}
    return {"strategy.kind": own.kind, **{f"strategy.{key}": value for key, value in found.items() if key != "kind"}}


def _short(key: str) -> str:
    return "strategy" if key == "strategy.kind" else key.removeprefix("train.").removeprefix("strategy.")


def value_text(value: object) -> str:
    """Return a value as it is written in YAML."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
