"""Functions for all transformers models: fitting a configuration to the requirements, and building a module."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from launcher.config import trust
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.model import ModelConfig
from launcher.plan import attention_kernels
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare import remote_code

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_USUAL = ("bert", "modernbert", "roberta", "gpt2", "t5", "bart", "vit", "resnet")
"""Model types that an error names if transformers has no model of the given type for a task."""


_GENERATION = "generation_config.json"
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")
"""Generation options without effect unless there is sampling (or beams). transformers refuses to save them then."""


class TransformersConfig(ModelConfig):
    """Keys of every transformers model."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """Rate of every dropout of the model. Default: the model's own."""
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout rate of attention weights. Default: the model's own."""
    attention: str | None = None
    """Attention implementation: sdpa, eager, flash_attention_2 and so on. Flash attention needs a GPU, bf16 or fp16,
    and the package flash-attn or kernels."""
    head: Literal["new"] | None = None
    """`new`: new weights outside of the encoder, even if the checkpoint has weights there."""
    reinit_layers: int = Field(0, ge=0)
    """Number of topmost layers with new weights (Zhang et al., 2021)."""

    @property
    def attention_kernel(self) -> str | None:
        return self.attention

    @field_validator("attention")
    @classmethod
    def _allowed_kernel(cls, value: str | None) -> str | None:
        """Check a name with a slash, which stands for code of the hub."""
        if value is not None and "/" in value:
            trust.check(value, "code of the hub")
        return value


def fit(
    hf: "PretrainedConfig", config: TransformersConfig, requirements: ModelRequirements, resize: bool
) -> "PretrainedConfig":
    """Fit a transformers configuration to the task, the data and the recipe, and return it. `resize`: also set the
    vocabulary, or the shape of images. Raises UserError."""
    if not requirements.auto_class:
        what = "no model of transformers takes lists of numbers (take kind: small, or factory for one of your own)"
        raise UserError(Problem("model.kind", what))
    _check_task(hf, requirements)
    set_options(hf, requirements)
    if requirements.shape:
        _fit_image(hf, config, requirements, resize)
    elif resize:
        hf.vocab_size, hf.pad_token_id = _embedded(hf, config, requirements), requirements.pad_token_id
        set_token_ids(hf, requirements, given=config.model_extra or {})
    elif getattr(hf, "vocab_size", requirements.vocab_size) < requirements.vocab_size:
        what = f"has {requirements.vocab_size} tokens, the model embeds {hf.vocab_size} (use the model's own tokenizer)"
        raise UserError(Problem("tokenizer", what))
    _set_dropout(hf, config)
    _check_rates(hf)
    return hf


def set_options(hf: "PretrainedConfig", requirements: ModelRequirements) -> None:
    """Set the options of the task, and reset those of the task for which a checkpoint was trained."""
    for name, value in {"problem_type": None, **requirements.options}.items():
        setattr(hf, name, value)


def set_token_ids(hf: "PretrainedConfig", requirements: ModelRequirements, given: Mapping[str, object]) -> None:
    """Set the ids of the tokens around a text, for a model that is trained with this tokenizer. `given`: keys of the
    recipe; they are not changed."""
    ids = {"bos_token_id": requirements.begin_token_id, "eos_token_id": requirements.end_token_id}
    if getattr(hf, "forced_eos_token_id", None) is not None:
        ids["forced_eos_token_id"] = requirements.end_token_id
    for name, value in ids.items():
        if value is not None and hasattr(hf, name) and name not in given:
            setattr(hf, name, value)


def _set_dropout(hf: "PretrainedConfig", config: TransformersConfig) -> None:
    """Set the dropout rates of the recipe. Raises UserError if the architecture has no separate rate for attention
    weights."""
    rates = [
        name
        for name, value in hf.to_dict().items()
        if ("dropout" in name or name.endswith("_pdrop")) and type(value) in (int, float)  # ESM's token_dropout is none
    ]
    of_attention = [name for name in rates if "att" in name]
    if config.attention_dropout is not None and not of_attention:
        what = f"{hf.model_type} has no dropout of attention weights alone (model.dropout sets every one)"
        raise UserError(Problem("model.attention_dropout", what))
    for names, rate in ((rates, config.dropout), (of_attention, config.attention_dropout)):
        for name in names if rate is not None else []:
            setattr(hf, name, rate)


def _check_rates(hf: "PretrainedConfig") -> None:
    """Raise UserError for rates of dropout, dropped paths or skipped layers outside of [0, 1)."""
    rates = {name: value for name, value in hf.to_dict().items() if "drop" in name and type(value) in (int, float)}
    wrong = [
        Problem(f"model.{name}", f"{value}: a dropout rate is at least 0 and below 1")
        for name, value in rates.items()
        if not 0 <= value < 1
    ]
    if wrong:
        raise UserError(wrong)


def _check_task(hf: "PretrainedConfig", requirements: ModelRequirements) -> None:
    """Raise UserError if transformers has no model of this type for the task."""
    import transformers

    able = getattr(transformers, requirements.auto_class)._model_mapping
    if type(hf) not in able and requirements.auto_class not in (getattr(hf, "auto_map", None) or {}):
        known = [name for name in _USUAL if transformers.CONFIG_MAPPING[name] in able]
        advice = f" (take one such as {', '.join(known)})" if known else ""
        raise UserError(
            Problem("model", f"{hf.model_type} has no model for this task, {requirements.auto_class}{advice}")
        )


def _fit_image(
    hf: "PretrainedConfig", config: TransformersConfig, requirements: ModelRequirements, resize: bool
) -> None:
    if not resize or len(requirements.shape) != 3:
        return
    channels, height, width = requirements.shape
    known = {"num_channels": channels, "image_size": height if height == width else (height, width)}
    for name, value in known.items():
        if hasattr(hf, name) and name not in (config.model_extra or {}):
            setattr(hf, name, value)


def _embedded(hf: "PretrainedConfig", config: TransformersConfig, requirements: ModelRequirements) -> int:
    """Return the number of rows of the embedding: the tokenizer's size, or a larger one from the recipe, such as a
    multiple of 64. Raises UserError for a smaller one."""
    if not requirements.vocab_size:  # the hub's tokenizer is not downloaded yet: the architecture's default
        return int(hf.vocab_size)
    if "vocab_size" not in (config.model_extra or {}):
        return requirements.vocab_size
    if hf.vocab_size < requirements.vocab_size:
        tokens = f"{requirements.vocab_size} tokens"
        what = f"{hf.vocab_size}, but the tokenizer has {tokens} (at least that many, or leave it out)"
        raise UserError(Problem("model.vocab_size", what))
    return int(hf.vocab_size)


def make(
    hf: "PretrainedConfig", config: TransformersConfig, requirements: ModelRequirements, trusted: bool = False
) -> "PreTrainedModel":
    """Build the module of a configuration, with new weights, on the current device. `trusted`: code that the
    configuration names may run; otherwise transformers refuses it with a ValueError, which is not caught. Raises
    UserError."""
    import torch
    import transformers

    auto, kernel = getattr(transformers, requirements.auto_class), config.attention
    if torch.get_default_device().type == "meta":  # a plan, perhaps on a machine without a GPU
        kernel = attention_kernels.portable(kernel)
    options = {"attn_implementation": kernel} if kernel else {}
    try:
        model = auto.from_config(hf, trust_remote_code=trusted, **options)
    except Exception as error:
        refused = isinstance(error, ValueError | ImportError)
        if remote_code.is_refusal(error) or not (refused or attention_kernels.needs_gpu(kernel)):
            raise  # a kernel of the hub may raise anything when it is loaded
        named = any(word in str(error).lower() for word in ("attn", "attention", "kernels"))
        key = "model.attention" if kernel and (named or not refused) else "model"
        raise UserError(Problem(key, first_line(error)[:300])) from None
    _check_kernel(model, config.attention)
    check_length(model, requirements)
    check_shape(model, requirements)
    return complete(model, requirements)


def _check_kernel(model: "PreTrainedModel", kernel: str | None) -> None:
    """Raise UserError if flash attention is requested of a model that has none."""
    own = getattr(model, "_compatible_flash_implementations", None) or ()
    if attention_kernels.needs_gpu(kernel) and not model._supports_flash_attn and kernel not in own:
        what = f"transformers has no flash attention for {type(model).__name__}, so no {kernel} (sdpa or eager)"
        raise UserError(Problem("model.attention", what))


def complete(model: "PreTrainedModel", requirements: ModelRequirements) -> "PreTrainedModel":
    """Set the token ids and generation options that are missing in a model's configurations, and return the model."""
    config, ids = model.config, dict[str, int | None]()
    if not requirements.vocab_size:
        return model
    known = {"bos_token_id": requirements.begin_token_id, "eos_token_id": requirements.end_token_id}
    for name in known:
        if isinstance(getattr(config, name, None), int) and getattr(config, name) >= requirements.vocab_size:
            setattr(config, name, known[name])  # the architecture's default belongs to another vocabulary
    if getattr(config, "is_encoder_decoder", False):
        config.decoder_start_token_id = ids["decoder_start_token_id"] = decoder_start(model, requirements)
    if "SequenceClassification" in requirements.auto_class and getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = requirements.pad_token_id  # with this id, a decoder finds the last token of each text
    if not model.can_generate():
        return model
    ids |= {"pad_token_id": requirements.pad_token_id, "eos_token_id": requirements.end_token_id}
    if (begin := model.generation_config.bos_token_id) is None or begin >= requirements.vocab_size:
        ids["bos_token_id"] = requirements.begin_token_id
    options = {**ids, **requirements.generation, "_from_model_config": False}
    unused: tuple[str, ...] = _SAMPLING if requirements.generation.get("do_sample") is False else ()
    unused += _BEAMS if requirements.generation.get("num_beams") == 1 else ()
    for key, value in {**dict.fromkeys(unused), **options}.items():
        setattr(model.generation_config, key, value)
    return model


def save_configuration(model: "PreTrainedModel", folder: Path) -> None:
    """Save the configuration files that transformers reads in addition to the weights."""
    model.config.save_pretrained(folder)
    if (generation := getattr(model, "generation_config", None)) is not None:
        generation.to_json_file(folder / _GENERATION)  # save_pretrained would refuse some published ones


def take_generation(model: "PreTrainedModel", folder: Path, requirements: ModelRequirements) -> None:
    """Load the generation configuration that a run saved, if there is one."""
    from transformers import GenerationConfig

    if model.can_generate() and (folder / _GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
        complete(model, requirements)


def decoder_start(model: "PreTrainedModel", requirements: ModelRequirements) -> int:
    """Return the id of a decoder's first token: the model's own, else the padding token, as in T5."""
    configs = model.config, getattr(model, "generation_config", None)
    starts = [getattr(one, "decoder_start_token_id", None) for one in configs]
    known = [start for start in starts if start is not None and start < requirements.vocab_size]
    return int(known[0]) if known else requirements.pad_token_id


def check_length(model: "PreTrainedModel", requirements: ModelRequirements) -> None:
    """Raise UserError if the model's table of positions is too short for the samples or the targets."""
    import torch

    tables = {
        name: module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, torch.nn.Embedding)
    }
    if not tables:
        return
    tables |= {name: buffer.shape[-1] for name, buffer in model.named_buffers() if name.endswith("position_ids")}
    targets = {name for name in tables if requirements.target_length and "decoder" in name.split(".")}
    name = type(model).__name__
    _check_positions(min((tables[n] for n in tables.keys() - targets), default=None), requirements.max_length, name)
    _check_positions(
        min((tables[n] for n in targets), default=None), requirements.target_length, name, "task.max_target_length"
    )


def _check_positions(usable: int | None, length: int, name: str, key: str = "data.max_length") -> None:
    """Raise UserError if a table of `usable` positions is shorter than a row of `length`. None: there is no table."""
    if usable is not None and usable < length:
        what = f"{length} tokens, but {name} has positions for {usable}"
        raise UserError(Problem(key, f"{what} (shorter samples, or more max_position_embeddings)"))


def check_shape(model: "PreTrainedModel", requirements: ModelRequirements) -> None:
    """Raise UserError if a model on the meta device does not take images of the required shape."""
    import torch

    if requirements.guessed or len(requirements.shape) != 3 or {p.device.type for p in model.parameters()} != {"meta"}:
        return
    try:
        model.eval()(pixel_values=torch.empty(1, *requirements.shape, device="meta"))
    except NotImplementedError:  # some operations do not support the meta device
        pass
    except (ValueError, RuntimeError, TypeError) as error:
        shape = " x ".join(map(str, requirements.shape))
        what = f"{type(model).__name__} does not take images of {shape}: {first_line(error)[:200]}"
        raise UserError(Problem("model", what)) from None
    finally:
        model.train()
