"""Text generation with transformers, by greedy decoding or beam search, which are deterministic."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from launcher.config.base_model import Strict
from launcher.tasks import JsonObject

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from launcher.plan.facts import Facts


class Generation(Strict):
    """Settings of text generation."""

    max_new_tokens: int = Field(64, gt=0)
    """Maximum number of generated tokens."""
    num_beams: int = Field(1, gt=0)
    """Number of beams of the search; 1: greedy decoding."""

    def options(self) -> JsonObject:
        """Return the keys of transformers' generation configuration."""
        return {"do_sample": False, "use_cache": True, **self.model_dump()}


def generate(
    model: "PreTrainedModel", config: Generation, facts: "Facts", inputs: dict[str, "torch.Tensor"], **options: Any
) -> list[NDArray[np.int64]]:
    """Return the generated token ids of each sample, without the end token. model: unwrapped, in eval mode."""
    import torch

    tokens = {"pad_token_id": facts.pad_token_id, "eos_token_id": facts.end_token_id}
    with torch.no_grad():
        rows = model.generate(**inputs, **options, **config.options(), **tokens)
    begin = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return [_until_end(row, facts.end_token_id) for row in rows[:, begin:].cpu().numpy()]


def continuations(
    model: "PreTrainedModel", config: Generation, facts: "Facts", prompts: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Return the token ids generated after each prompt, without the end token. Prompts are padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), facts.pad_token_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :], mask[n, longest - len(prompt) :] = prompt, 1
    arrays = {"input_ids": ids, "attention_mask": mask}
    inputs = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
    return generate(model, config, facts, inputs)


def texts(tokens: Sequence[NDArray[np.int64]], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Decode each sequence of token ids, without special tokens."""
    return [tokenizer.decode(np.asarray(one).tolist(), skip_special_tokens=True).strip() for one in tokens]


def _until_end(tokens: NDArray[np.int64], end: int | None) -> NDArray[np.int64]:
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if len(ends) else tokens
