"""A model of the user's own: a function that returns a torch module."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from pydantic import field_validator

from launcher import models
from launcher.config import kinds
from launcher.config.errors import Problem, UserError
from launcher.config.format import some
from launcher.config.types import hint
from launcher.models._adaptation import ModelConfig, adapted
from launcher.plan.model_requirements import ModelRequirements


class Config(ModelConfig):
    """A model that a function of your own builds. The function is called with `options`, and with those of num_labels,
    vocab_size, pad_token_id, max_length and shape that it takes. The module takes the task's inputs by name, or one
    tensor, and returns logits or an object with `.logits`.

    A run records the name of the function, not its code: a resume needs the same code to be there.
    """

    kind: Literal["factory"] = "factory"
    factory: str
    """Function, as mypkg.models:make or mypkg.models.make, importable from the current folder too."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""

    @property
    def origin(self) -> str:
        return self.factory

    @field_validator("factory")
    @classmethod
    def _allowed_factory(cls, value: str) -> str:
        """While a recipe is read: a stored one may name the function of somebody else. Whether there is such a function
        is seen when it is called."""
        if kinds.stored() is not None:
            kinds.function(value)
        elif kinds.is_read():
            kinds.allow(value, "")
        return value


class Model(models.Model):
    def __init__(self, config: Config):
        self.config = config

    def tokenizer(self) -> str | None:
        return None

    def build(self, need: ModelRequirements, weights: bool = True) -> tuple[Any, list[str]]:
        make = _found(self.config.factory)
        given = _arguments(make, self.config, need)
        model = _called(make, given, self.config) if weights else _without_weights(make, given, self.config)
        _take_by_name(model)
        model, notes = adapted(model, self.config)
        return model, notes if weights else []


def _found(path: str) -> Callable[..., Any]:
    """The function of a path. Raises UserError."""
    try:
        return kinds.function(path)
    except ValueError as error:
        raise UserError(Problem("model.factory", str(error))) from None


def _arguments(make: Callable[..., Any], config: Config, need: ModelRequirements) -> dict[str, Any]:
    """The options, and what the function asks for by name. Raises UserError for unknown and missing ones."""
    takes = inspect.signature(make).parameters
    words = {
        "vocab_size": need.vocab_size,
        "pad_token_id": need.pad_token_id,
        "max_length": max(need.max_length, need.target_length),
    }
    offered = {**({"shape": need.shape} if need.shape else words), **need.options}
    asked = ("num_labels", "vocab_size", "pad_token_id", "max_length", "shape")
    given = {name: offered[name] for name in asked if name in takes and name in offered} | config.options
    kinds_of = {parameter.kind for parameter in takes.values()}
    unknown = [] if inspect.Parameter.VAR_KEYWORD in kinds_of else [key for key in config.options if key not in takes]
    there = {key: hint(key, takes) if takes else "it has none" for key in unknown}
    wrong = [
        Problem(f"model.options.{key}", f"{config.factory} has no such argument ({there[key]})") for key in unknown
    ]
    if missing := [name for name in _needed(takes) if name not in given]:
        known = ", ".join(name for name in asked if name in offered)
        what = f"{config.factory} needs {', '.join(missing)} (besides these it may ask for {known})"
        wrong.append(Problem("model.options", what))
    if wrong:
        raise UserError(wrong)
    return given


def _needed(takes: Mapping[str, inspect.Parameter]) -> list[str]:
    """The arguments without a default."""
    many = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in takes.items() if one.default is one.empty and one.kind not in many]


def _without_weights(make: Callable[..., Any], given: dict[str, Any], config: Config) -> Any:
    """The module on the meta device: made there, or brought there where its code needs numbers."""
    import torch

    if torch.get_default_device().type != "meta":
        return _called(make, given, config)
    try:
        return _called(make, given, config).to("meta")
    except UserError:
        with torch.device("cpu"):
            return _called(make, given, config).to("meta")


def _called(make: Callable[..., Any], given: dict[str, Any], config: Config) -> Any:
    """What the function returns. Raises UserError with the place where it raised."""
    import torch

    try:
        made = make(**given)
    except Exception as error:  # the code of a user may raise anything
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = [frame for frame in frames if frame.filename == inspect.getsourcefile(make)] or frames
        where = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
        what = f"{config.factory} raised {where}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(Problem("model.factory", what)) from None
    if not isinstance(made, torch.nn.Module):
        what = f"{config.factory} returned no torch.nn.Module but {type(made).__name__}"
        raise UserError(Problem("model.factory", what))
    return made.float() if any(p.dtype != torch.float32 for p in made.parameters()) else made


def _take_by_name(model: Any) -> None:
    """Tasks give inputs by name; a forward of one argument gets the one there is, whatever its name."""
    takes = inspect.signature(model.forward).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        hook = partial(_by_name, frozenset(takes), len(_needed(takes)))
        model.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)


def _by_name(names: frozenset[str], needed: int, module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
    """A forward pre-hook. Raises UserError where inputs have no place."""
    unknown = [name for name in inputs if name not in names]
    if not unknown:
        return args, inputs
    if len(inputs) == 1 and not args and needed <= 1 and names:
        return tuple(inputs.values()), {}
    what = f"forward of {type(module).__name__} does not take {some(unknown)} (the task gives {', '.join(inputs)})"
    raise UserError(Problem("model.factory", what))
