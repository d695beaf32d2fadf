"""Adaptations of any model: frozen parameters, adapters, and normalization."""

import functools
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from launcher.config.errors import Problem, UserError
from launcher.config.format import some
from launcher.config.model import ModelConfig

if TYPE_CHECKING:
    import torch

_MIXES = (
    "mixes the samples of a micro-batch, so that ranks would change what is learnt (frozen keeps the pretrained "
    "statistics, group normalises each sample by itself)"
)


def adapted(
    model: "torch.nn.Module", config: ModelConfig, new: list[str] | None = None
) -> "tuple[torch.nn.Module, list[str]]":
    """Apply the adaptations of a configuration to a model. Returns the model, and notes on the parameters that train.
    `new`: parameters without pretrained weights, which train in full next to an adapter. Raises UserError."""
    notes = []
    if config.batch_norm == "group":
        group(model)
    parameters = dict(model.named_parameters())
    if config.adapter is not None:
        from launcher.models import _peft

        notes.append(_peft.inject(model, config.adapter))
        for name in new or []:
            parameters[name].requires_grad_(True)
    matched = _matched(config.freeze, parameters)
    for name in matched:
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            Problem("model.freeze", f"nothing is left to train (names begin with: {_beginnings(parameters)})")
        )
    notes += _settle_batch_norms(model, config.batch_norm == "frozen")
    return model, notes + _training_notes(model, [name for name in new or [] if name in matched])


def frozen(config: ModelConfig, names: list[str]) -> list[str]:
    """Return the names of an adapted model's parameters that `freeze` matches."""
    plain_names = {name: name.replace(".base_layer", "") for name in names}
    return [name for name in names if any(_matches(plain_names[name], pattern) for pattern in config.freeze)]


def plain(model: "torch.nn.Module") -> "torch.nn.Module":
    """Merge a model's adapters into its weights, and let all parameters and batch norm statistics train again. Returns
    the model. A GroupNorm that has replaced a BatchNorm remains."""
    if any(hasattr(module, "base_layer") for module in model.modules()):
        from launcher.models import _peft

        _peft.merge(model)
    for module in model.modules():
        vars(module).pop("train", None)
    return model.requires_grad_(True)


def group(model: "torch.nn.Module") -> None:
    """Replace each BatchNorm by a GroupNorm with the same affine weights. A transformers configuration records this for
    later runs."""
    for name, module in list(model.named_modules()):
        if _is_batch_norm(module):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _grouped(module))
    if hasattr(getattr(model, "config", None), "save_pretrained"):
        model.config.batch_norm = "group"


def _grouped(norm: "torch.nn.modules.batchnorm._BatchNorm") -> "torch.nn.GroupNorm":
    import torch

    channels = norm.num_features
    one = isinstance(norm, torch.nn.BatchNorm1d)  # often no further axes: a group of one value would be constant
    groups = 1 if one else max(n for n in range(1, 33) if channels % n == 0)
    group_norm = torch.nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        group_norm.weight, group_norm.bias = norm.weight, norm.bias
    return group_norm.train(norm.training)


def _settle_batch_norms(model: "torch.nn.Module", frozen: bool) -> list[str]:
    """Freeze the statistics of batch norms. Returns a note on statistics that were never trained. Raises UserError for
    a BatchNorm that would use the statistics of a batch."""
    fresh = list[str]()
    for name, module in model.named_modules():
        if not _is_batch_norm(module):
            continue
        affine = list(module.parameters())
        if not frozen and (not affine or any(parameter.requires_grad for parameter in affine)):
            raise UserError(Problem("model.batch_norm", _MIXES))
        if module.running_mean is None:
            raise UserError(Problem("model.batch_norm", "keeps no statistics that could stay as they are (group)"))
        module.train = functools.partial(_stay, module.eval())
        if not module.running_mean.is_meta and not module.running_mean.any() and (module.running_var == 1).all():
            fresh.append(name)
    what = "batch norms normalise nothing, with frozen means of 0 and variances of 1 (batch_norm: group does)"
    return [f"{what}: {some(fresh)}"] if fresh else []


def _stay(module: "torch.nn.Module", mode: bool = True) -> "torch.nn.Module":
    """Return the module unchanged: the replacement of `train` for a module that stays in eval mode."""
    return module


def _is_batch_norm(module: "torch.nn.Module") -> bool:
    import torch

    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def _matched(patterns: list[str], parameters: "dict[str, torch.nn.Parameter]") -> set[str]:
    """Return the names of all parameters that a pattern matches. Raises UserError for patterns that match none."""
    matches = {pattern: {name for name in parameters if _matches(name, pattern)} for pattern in patterns}
    idle = [pattern for pattern, names in matches.items() if not names]
    if idle:
        glob = "a pattern is a glob such as bert.encoder.layer.[0-3], no regular expression"
        what = f"matches no parameter (names begin with: {_beginnings(parameters)}; {glob})"
        raise UserError([Problem("model.freeze", f"{pattern!r} {what}") for pattern in idle])
    return set[str]().union(*matches.values())


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _beginnings(names: Iterable[str]) -> str:
    """Return a text with the prefixes of parameter names, two levels deep."""
    prefixes = list(dict.fromkeys(".".join((name.split(".")[:-1] or [name])[:2]) for name in names))
    return some(prefixes, 12)


def _training_notes(model: "torch.nn.Module", untrained: list[str]) -> list[str]:
    sizes, trained = Counter[bool](), []
    count = Counter(parameter.requires_grad for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        sizes[parameter.requires_grad] += parameter.numel()
        trained += [name] if parameter.requires_grad else []
    if not count[False]:
        return []
    summary = f"frozen: {count[False]} of {count.total()} tensors ({sizes[False]:,} of {sizes.total():,} parameters)"
    notes = [f"{summary}; trained: {some(trained)}"]
    return notes + ([f"new, and frozen as they were drawn: {some(untrained)}"] if untrained else [])
