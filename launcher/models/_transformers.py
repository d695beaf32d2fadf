"""What the kinds of transformers models share: a configuration made to fit the need, and a module made from it."""

from typing import Any

from pydantic import Field

from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin
from launcher.plan.need import Need


class ModelConfig(Plugin):
    """`dropout`: every dropout of the model set to this. `attention`: sdpa, eager, flash_attention_2, ..."""

    dropout: float | None = Field(None, ge=0, lt=1)
    attention: str | None = None


def fit(hf: Any, config: ModelConfig, need: Need, resize: bool) -> Any:
    """A transformers configuration with what the task, the data and the recipe decide. `resize`: the vocabulary too."""
    for name, value in need.options.items():
        setattr(hf, name, value)
    if resize:
        hf.vocab_size, hf.pad_token_id = _embedded(hf, config, need), need.pad_token_id
    elif hf.vocab_size < need.vocab_size:
        what = f"has {need.vocab_size} tokens, the model embeds {hf.vocab_size} (use the model's own tokenizer)"
        raise UserError(Problem("tokenizer", what))
    if config.dropout is not None:
        for name, value in hf.to_dict().items():
            if "dropout" in name and isinstance(value, float):
                setattr(hf, name, config.dropout)
    return hf


def _embedded(hf: Any, config: ModelConfig, need: Need) -> int:
    """As many tokens as the tokenizer has, or as were asked for if those are more (to fill a multiple of 64, say)."""
    if not need.vocab_size:  # a tokenizer of the hub before it is there: the architecture's usual one stands in for it
        return int(hf.vocab_size)
    if "vocab_size" not in (config.model_extra or {}):
        return need.vocab_size
    if hf.vocab_size < need.vocab_size:
        what = f"{hf.vocab_size}, but the tokenizer has {need.vocab_size} tokens (at least that many, or leave it out)"
        raise UserError(Problem("model.vocab_size", what))
    return int(hf.vocab_size)


def make(hf: Any, config: ModelConfig, need: Need) -> Any:
    """The module of a configuration, newly initialised on the current device."""
    import transformers

    auto = getattr(transformers, need.auto_class)
    options = {"attn_implementation": config.attention} if config.attention else {}
    try:
        model = auto.from_config(hf, **options)
    except (ValueError, ImportError) as error:
        raise UserError(Problem("model", f"{str(error).splitlines()[0][:300]}")) from None
    check_length(model, need)
    return model


def check_length(model: Any, need: Need) -> None:
    """Raises UserError where the model's table of positions ends before the longest sample."""
    import torch

    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.endswith(("position_embeddings", "embed_positions")) and isinstance(module, torch.nn.Embedding)
    ]
    numbers = [buffer.shape[-1] for name, buffer in model.named_buffers() if name.endswith("position_ids")]
    if tables and (usable := min(tables + numbers)) < need.max_length:
        what = f"{need.max_length} tokens, but {type(model).__name__} has positions for {usable}"
        raise UserError(Problem("data.max_length", f"{what} (shorter samples, or more max_position_embeddings)"))
