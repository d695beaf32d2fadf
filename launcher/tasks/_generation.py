"""Texts that a model makes, token by token: the likeliest (or by beams), so that they are the same each time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from launcher.config.types import Strict

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


class Generation(Strict):
    """How texts are generated."""

    max_new_tokens: int = Field(64, gt=0)
    """Maximum number of generated tokens."""
    num_beams: int = Field(1, gt=0)
    """Beams of the search; 1: greedy."""

    def options(self) -> dict[str, Any]:
        """The same as keys of transformers' generation configuration."""
        return {"do_sample": False, "use_cache": True, **self.model_dump()}


def generated(
    model: Any, config: Generation, facts: "Facts", inputs: dict[str, "torch.Tensor"], **given: Any
) -> list[NDArray[np.int64]]:
    """The new tokens of each sample, up to the one that ends a text. model: of transformers, bare, in eval mode."""
    import torch

    with torch.no_grad():
        made = model.generate(
            **inputs, **given, **config.options(), pad_token_id=facts.pad_token_id, eos_token_id=facts.end_token_id
        )
    begin = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return [_until(row, facts.end_token_id) for row in made[:, begin:].cpu().numpy()]


def continued(model: Any, config: Generation, facts: "Facts", prompts: Sequence[Any]) -> list[NDArray[np.int64]]:
    """What comes after each prompt, an array of tokens. They are padded before their beginnings."""
    import torch

    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), facts.pad_token_id, dtype=np.int64)
    there = np.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :], there[n, longest - len(prompt) :] = prompt, 1
    arrays = {"input_ids": ids, "attention_mask": there}
    inputs = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
    return generated(model, config, facts, inputs)


def texts(tokens: Sequence[Any], tokenizer: Any) -> list[str]:
    return [tokenizer.decode(np.asarray(one).tolist(), skip_special_tokens=True).strip() for one in tokens]


def _until(tokens: NDArray[np.int64], end: int | None) -> NDArray[np.int64]:
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if len(ends) else tokens
