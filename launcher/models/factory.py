"""A model that a user's function returns."""

import inspect
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from launcher import models
from launcher.config import kinds, trust
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.config.format import some
from launcher.config.model import ModelConfig
from launcher.config.types import JsonObject
from launcher.models._adaptation import adapted
from launcher.plan.model_requirements import ModelRequirements

if TYPE_CHECKING:
    import torch


class Config(ModelConfig):
    """A model that your own function builds. Its keyword arguments are `options`, and those of num_labels, vocab_size,
    pad_token_id, max_length and shape that its signature contains and the task provides. The returned module takes the
    task's inputs by name, or a single tensor, and returns logits or an object with `.logits`.

    A run records the name of the function, not its code. So a resume needs the same code.
    """

    kind: Literal["factory"] = "factory"
    factory: str
    """Function, written as mypkg.models:make or mypkg.models.make. Its module may be in the current folder."""
    options: JsonObject = {}
    """Keyword arguments of the function."""

    @property
    def origin(self) -> str:
        return self.factory

    @property
    def runs_own_code(self) -> bool:
        return True

    @field_validator("factory")
    @classmethod
    def _allowed_factory(cls, value: str) -> str:
        """Check the name while a recipe is loaded, because a stored recipe may name a function of somebody else.
        Whether the function exists is checked when it is called."""
        if trust.stored_recipe() is not None:
            kinds.function(value)
        elif trust.is_loading():
            trust.check(value, "")
        return value


class Model(models.Model[Config]):
    def build(self, requirements: ModelRequirements, weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        make = _imported(self.config.factory)
        arguments = _arguments(make, self.config, requirements)
        model = _call(make, arguments, self.config) if weights else _without_weights(make, arguments, self.config)
        _take_by_name(model)
        model, notes = adapted(model, self.config)
        return model, notes if weights else []


def _imported(path: str) -> Callable[..., Any]:
    """Return the function, imported. Raises UserError."""
    try:
        return kinds.function(path)
    except ValueError as error:
        raise UserError(Problem("model.factory", str(error))) from None


def _arguments(make: Callable[..., Any], config: Config, requirements: ModelRequirements) -> JsonObject:
    """Return the arguments of the function: the options, and the standard arguments in its signature. Raises UserError
    for unknown options and missing arguments."""
    parameters = inspect.signature(make).parameters
    words = {
        "vocab_size": requirements.vocab_size,
        "pad_token_id": requirements.pad_token_id,
        "max_length": max(requirements.max_length, requirements.target_length),
    }
    offered = {**({"shape": requirements.shape} if requirements.shape else words), **requirements.options}
    names = ("num_labels", "vocab_size", "pad_token_id", "max_length", "shape")
    arguments = {name: offered[name] for name in names if name in parameters and name in offered} | config.options
    kinds_of = {parameter.kind for parameter in parameters.values()}
    unknown = (
        [] if inspect.Parameter.VAR_KEYWORD in kinds_of else [key for key in config.options if key not in parameters]
    )
    hints = {key: hint(key, parameters) if parameters else "it has none" for key in unknown}
    problems = [
        Problem(f"model.options.{key}", f"{config.factory} has no such argument ({hints[key]})") for key in unknown
    ]
    if missing := [name for name in _required(parameters) if name not in arguments]:
        known = ", ".join(name for name in names if name in offered)
        what = f"{config.factory} needs {', '.join(missing)} (besides these it may ask for {known})"
        problems.append(Problem("model.options", what))
    if problems:
        raise UserError(problems)
    return arguments


def _required(takes: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the names of the arguments without a default."""
    many = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, one in takes.items() if one.default is one.empty and one.kind not in many]


def _without_weights(make: Callable[..., Any], arguments: JsonObject, config: Config) -> "torch.nn.Module":
    """Return the module on the meta device. It is created there, or, if its code needs numbers, on the CPU and moved
    there."""
    import torch

    if torch.get_default_device().type != "meta":
        return _call(make, arguments, config)
    try:
        return _call(make, arguments, config).to("meta")
    except UserError:
        with torch.device("cpu"):
            return _call(make, arguments, config).to("meta")


def _call(make: Callable[..., Any], arguments: JsonObject, config: Config) -> "torch.nn.Module":
    """Call the function, and return the module in fp32. Raises UserError with the line that failed, or if the result is
    no module."""
    import torch

    try:
        model = make(**arguments)
    except Exception as error:  # a user's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own_frames = [frame for frame in frames if frame.filename == inspect.getsourcefile(make)] or frames
        where = f"{own_frames[-1].filename}:{own_frames[-1].lineno}: " if own_frames else ""
        what = f"{config.factory} raised {where}{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(Problem("model.factory", what)) from None
    if not isinstance(model, torch.nn.Module):
        what = f"{config.factory} returned no torch.nn.Module but {type(model).__name__}"
        raise UserError(Problem("model.factory", what))
    return model.float() if any(p.dtype != torch.float32 for p in model.parameters()) else model


def _take_by_name(model: "torch.nn.Module") -> None:
    """Adapt a forward with one argument to tasks, which pass inputs by name."""
    takes = inspect.signature(model.forward).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        hook = partial(_by_name, frozenset(takes), len(_required(takes)))
        model.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)


def _by_name(
    names: frozenset[str], needed: int, module: "torch.nn.Module", args: tuple[object, ...], inputs: JsonObject
) -> tuple[tuple[object, ...], JsonObject]:
    """Return the arguments for a forward: a single input by position if the forward has another name for it.

    A forward pre-hook. Raises UserError for inputs that the forward does not take.
    """
    unknown = [name for name in inputs if name not in names]
    if not unknown:
        return args, inputs
    if len(inputs) == 1 and not args and needed <= 1 and names:
        return tuple(inputs.values()), {}
    what = f"forward of {type(module).__name__} does not take {some(unknown)} (the task gives {', '.join(inputs)})"
    raise UserError(Problem("model.factory", what))
