"""What every kind of model lets a recipe decide: which parameters train, adapters, and how batches are normalised."""

import functools
from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from launcher.config.errors import Problem, UserError
from launcher.config.format import some
from launcher.config.model_config import Adapter as Adapter
from launcher.config.model_config import ModelConfig as ModelConfig

if TYPE_CHECKING:
    import torch

_MIXES = (
    "mixes the samples of a micro-batch, so that ranks would change what is learnt (frozen keeps the pretrained "
    "statistics, group normalises each sample by itself)"
)


def adapted(model: Any, config: ModelConfig, new: "list[str] | None" = None) -> tuple[Any, list[str]]:
    """The model with all that its configuration decides, and notes on what trains. `new`: parameters that no checkpoint
    had: beside an adapter these train whole. Raises UserError."""
    notes = []
    if config.batch_norm == "group":
        group(model)
    own = dict(model.named_parameters())
    if config.adapter is not None:
        from launcher.models import _peft

        notes.append(_peft.inject(model, config.adapter))
        for name in new or []:
            own[name].requires_grad_(True)
    still = _matched(config.freeze, own)
    for name in still:
        own[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(Problem("model.freeze", f"nothing is left to train (names begin with: {_beginnings(own)})"))
    notes += _settle_batch_norms(model, config.batch_norm == "frozen")
    return model, notes + _told(model, [name for name in new or [] if name in still])


def frozen(config: ModelConfig, names: list[str]) -> list[str]:
    """Those of an adapted model's parameters that `freeze` matches."""
    own = {name: name.replace(".base_layer", "") for name in names}
    return [name for name in names if any(_matches(own[name], pattern) for pattern in config.freeze)]


def plain(model: Any) -> Any:
    """An adapted model as plain modules: adapters merged into the weights, and everything trains. What was grouped
    stays so."""
    if any(hasattr(module, "base_layer") for module in model.modules()):
        from launcher.models import _peft

        _peft.merge(model)
    for module in model.modules():
        vars(module).pop("train", None)
    return model.requires_grad_(True)


def group(model: Any) -> None:
    """GroupNorm in place of each BatchNorm, with its affine weights. A transformers configuration remembers it, for the
    runs that go on from this one."""
    for name, module in list(model.named_modules()):
        if _is_batch_norm(module):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _grouped(module))
    if hasattr(getattr(model, "config", None), "save_pretrained"):
        model.config.batch_norm = "group"


def _grouped(norm: Any) -> Any:
    import torch

    channels = norm.num_features
    one = isinstance(norm, torch.nn.BatchNorm1d)  # often without further axes: groups of one value would be constant
    groups = 1 if one else max(n for n in range(1, 33) if channels % n == 0)
    made = torch.nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        made.weight, made.bias = norm.weight, norm.bias
    return made.train(norm.training)


def _settle_batch_norms(model: Any, frozen: bool) -> list[str]:
    """Returns a note where statistics stay that nothing has been learnt of. Raises UserError where a BatchNorm would
    still take its statistics from the batch."""
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


def _stay(module: Any, mode: bool = True) -> Any:
    """In place of a module's `train`."""
    return module


def _is_batch_norm(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def _matched(patterns: list[str], own: "dict[str, torch.nn.Parameter]") -> set[str]:
    """The names of all parameters that a pattern matches. Raises UserError for patterns that match none."""
    found = {pattern: {name for name in own if _matches(name, pattern)} for pattern in patterns}
    idle = [pattern for pattern, names in found.items() if not names]
    if idle:
        glob = "a pattern is a glob such as bert.encoder.layer.[0-3], no regular expression"
        what = f"matches no parameter (names begin with: {_beginnings(own)}; {glob})"
        raise UserError([Problem("model.freeze", f"{pattern!r} {what}") for pattern in idle])
    return set[str]().union(*found.values())


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _beginnings(names: Any) -> str:
    """Where in the model parameters are, two names deep."""
    found = list(dict.fromkeys(".".join((name.split(".")[:-1] or [name])[:2]) for name in names))
    return some(found, 12)


def _told(model: Any, unlearnt: list[str]) -> list[str]:
    sizes, trained = Counter[bool](), []
    count = Counter(parameter.requires_grad for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        sizes[parameter.requires_grad] += parameter.numel()
        trained += [name] if parameter.requires_grad else []
    if not count[False]:
        return []
    told = f"frozen: {count[False]} of {count.total()} tensors ({sizes[False]:,} of {sizes.total():,} parameters)"
    notes = [f"{told}; trained: {some(trained)}"]
    return notes + ([f"new, and frozen as they were drawn: {some(unlearnt)}"] if unlearnt else [])
