"""Filling of the mask tokens in texts with a masked language model.

Texts of equal length are computed together, without padding. The results equal those of transformers' fill-mask
pipeline for each text alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.tools.prediction.prediction_lines import Prediction

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

DEFAULT = 5
"""Number of tokens to propose for each mask, as in the pipeline."""
_ROWS, _TOKENS = 32, 2**14
"""Maximum number of texts, and of tokens, in a micro-batch."""


class MaskFiller:
    """A masked language model that fills masks. `length`: maximum tokens of a text. `top_k`: number of tokens to
    propose for a mask. `precision`: that of training."""

    def __init__(
        self, model: "torch.nn.Module", tokenizer: "PreTrainedTokenizerBase", length: int, top_k: int, precision: str,
        device: "torch.device",
    ):  # fmt: skip
        self._model, self._tokenizer, self._length = model, tokenizer, length
        self._top_k, self._precision, self._device = top_k, precision, device

    def has_mask(self, text: str) -> bool:
        return self._tokenizer.mask_token in text

    def fill(self, texts: Sequence[str]) -> list[Prediction]:
        """Return a prediction for each text. `fills`: for each mask, a list of its most probable tokens.

        Each token has `token` (its text), `id` and `probability`. A truncated text also has `truncated`. If a mask is
        cut off, the text has only `error`.
        """
        if not texts:
            return []
        mask = self._tokenizer.mask_token_id
        token_ids = self._tokenizer(list(texts), truncation=True, max_length=self._length)["input_ids"]
        cut = [len(ids) > self._length for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]
        answers: list[Prediction] = [{} for _ in texts]
        by_length = defaultdict[int, list[int]](list)
        for number, (text, ids) in enumerate(zip(texts, token_ids, strict=True)):
            if ids.count(mask) < text.count(self._tokenizer.mask_token):
                what = f"a {self._tokenizer.mask_token} is cut off: the text has more than {self._length} tokens"
                answers[number] = {"error": what}
            else:
                by_length[len(ids)].append(number)
        for length, numbers in by_length.items():
            size = max(1, min(_ROWS, _TOKENS // length))
            for start in range(0, len(numbers), size):
                some = numbers[start : start + size]
                for number, fills in zip(some, self._fills([token_ids[n] for n in some]), strict=True):
                    answers[number] = {"fills": fills, **({"truncated": True} if cut[number] else {})}
        return answers

    def _fills(self, rows: Sequence[Sequence[int]]) -> list[list[list[Prediction]]]:
        """Return for each row of token ids a list of proposals for each of its masks. All rows have the same length."""
        import torch

        from launcher.train.precision import autocast

        ids = torch.tensor(rows, device=self._device)
        with torch.no_grad(), autocast(self._precision, self._device):
            logits = self._model(input_ids=ids).logits
        at, place = (ids == self._tokenizer.mask_token_id).nonzero(as_tuple=True)
        probabilities = logits[at, place].double().softmax(-1)
        top = probabilities.topk(min(self._top_k, probabilities.shape[-1]))
        fills: list[list[list[Prediction]]] = [[] for _ in rows]
        for row, tokens, values in zip(at.tolist(), top.indices.tolist(), top.values.tolist(), strict=True):
            fills[row].append([self._proposal(token, value) for token, value in zip(tokens, values, strict=True)])
        return fills

    def _proposal(self, token: int, probability: float) -> Prediction:
        text = self._tokenizer.decode([token])
        return {"token": text, "id": token, "probability": float(f"{probability:.6g}")}
