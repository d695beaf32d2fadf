"""Adapters of peft: injected into a model's encoder, or merged into its weights. The model keeps its class."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.format import some
from launcher.config.types import JsonObject

if TYPE_CHECKING:
    from launcher.config.model import Adapter

_UNFIT = {"adamss", "boft", "lily", "poly", "shadow", "shira", "trainable_tokens"}
"""Adapters that peft cannot merge or cannot create on the meta device, or that need other inputs besides tokens."""
_LAYERS = (torch.nn.Linear, Conv1D, torch.nn.modules.conv._ConvNd)


def kinds() -> dict[str, tuple[type[peft.PeftConfig], type[BaseTuner]]]:
    """Return the adapters that fit any model and can be merged: peft's configuration and tuner, by kind."""
    pairs = {
        t.value.lower(): (PEFT_TYPE_TO_CONFIG_MAPPING[t], tuner) for t, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
    }
    return {
        kind: (config, tuner)
        for kind, (config, tuner) in pairs.items()
        if issubclass(tuner, BaseTuner) and not tuner.uses_shared_state
        if kind not in _UNFIT and "target_modules" in _fields(config)
    }


def inject(model: torch.nn.Module, adapter: "Adapter") -> str:
    """Inject an adapter into a model's encoder, and freeze the encoder's own parameters. Parameters outside of the
    encoder (the head) continue to train. Returns a note. Raises UserError."""
    if adapter.kind not in kinds():
        raise UserError(Problem("model.adapter.kind", f"unknown kind {adapter.kind!r} ({hint(adapter.kind, kinds())})"))
    config, tuner = kinds()[adapter.kind]
    encoder = getattr(model, "base_model", model)
    options = _options(adapter, config)
    options["target_modules"] = _targets(adapter, tuner, model, encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _translate_errors(lambda: peft.inject_adapter_in_model(config(**options), encoder))
    layers = [name.rpartition(".")[2] for name, module in encoder.named_modules() if isinstance(module, BaseTunerLayer)]
    note = f"{adapter.kind} on {len(layers)} layers: {some(sorted(set(layers)), 6)}"
    allocates = hasattr(tuner, "update_and_allocate")
    return f"{note} (each keeps the rank that it begins with)" if allocates else note


def merge(model: torch.nn.Module) -> None:
    """Replace every adapted layer by the plain layer, with the adapter merged into its weights."""
    with torch.no_grad():
        for name, module in list(model.named_modules()):
            if not isinstance(module, BaseTunerLayer):
                continue
            if hasattr(module, "unload_and_optionally_merge_module"):
                layer = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            else:
                module.merge()
                layer = module.get_base_layer()
            setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer)
    vars(getattr(model, "base_model", model)).pop("peft_config", None)


def _fields(config: type[peft.PeftConfig]) -> set[str]:
    """Return the keys of a peft configuration that a recipe may set."""
    common = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    return {field.name for field in dataclasses.fields(config)} - common - {"modules_to_save"}


def _options(adapter: "Adapter", config: type[peft.PeftConfig]) -> JsonObject:
    """Return the adapter's keys under peft's names: alpha may be lora_alpha, r may be init_r. Raises UserError for
    unknown keys."""
    fields = _fields(config) - {"target_modules"}
    names = {field: field for field in fields}
    for key in ("r", "alpha", "dropout"):
        fit = [name for name in (f"init_{key}", f"{adapter.kind}_{key}", f"lora_{key}", key) if name in fields]
        names |= {key: fit[0]} if fit else {}
    keys = adapter.model_dump(exclude={"kind", "targets"}, exclude_none=True)
    unknown = [
        Problem(f"model.adapter.{key}", f"unknown key of {config.__name__} ({hint(key, {*names, 'targets'})})")
        for key in keys
        if key not in names
    ]
    if unknown:
        raise UserError(unknown)
    return {names[key]: value for key, value in keys.items()}


def _targets(
    adapter: "Adapter", tuner: type[BaseTuner], model: torch.nn.Module, encoder: torch.nn.Module
) -> list[str] | str | None:
    """Return the target layers for peft; None: peft's choice for the architecture. Raises UserError if there are
    none."""
    layers = [name for name, module in encoder.named_modules() if isinstance(module, _LAYERS)]
    linear = [name for name in layers if isinstance(encoder.get_submodule(name), torch.nn.Linear | Conv1D)]
    available = hint("", {name.rpartition(".")[2] for name in layers})
    if adapter.targets is None:
        mapping = getattr(tuner, "target_module_mapping", None)  # IA3 has a mapping of its own, which is not accessible
        known = mapping is None or getattr(getattr(model, "config", None), "model_type", None) in mapping
        if not known and not linear:
            what = f"{type(encoder).__name__} has no linear layer: name some ({available})"
            raise UserError(Problem("model.adapter.targets", what))
        return None if known else linear
    if isinstance(adapter.targets, str):
        return linear if adapter.targets == "all-linear" else adapter.targets
    begin = f"{getattr(model, 'base_model_prefix', '')}."
    targets = [name.removeprefix(begin) for name in adapter.targets]
    names = [name for name, _ in encoder.named_modules()]
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if missing:
        what = f"{type(encoder).__name__} has no layer {some(missing)} ({available})"
        raise UserError(Problem("model.adapter.targets", what))
    return targets


def _translate_errors(action: Callable[[], object]) -> None:
    """Run an action, and translate errors of peft into UserError."""
    try:
        action()
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        key = "model.adapter.targets" if "target" in str(error).lower() else "model.adapter"
        raise UserError(Problem(key, first_line(error)[:300])) from None
