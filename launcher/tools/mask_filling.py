"""Masked words filled in: what a masked language model puts in the place of each mask token in a user's text.

Texts of equal length are computed together, so that nothing is padded: the answers are those of the fill-mask pipeline
of transformers for each text by itself.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from launcher.config.errors import Problem, UserError

if TYPE_CHECKING:
    import torch

DEFAULT = 5
"""Tokens that are proposed for each mask, as in the pipeline."""
_ROWS, _TOKENS = 32, 2**14
"""Texts of a micro-batch, and their tokens, at the most."""


class MaskFiller:
    """`length`: tokens of a text, at the most. `most`: tokens to propose. `precision`: as in training."""

    def __init__(
        self, model: "torch.nn.Module", tokenizer: Any, length: int, most: int, precision: str, device: "torch.device"
    ):
        self._model, self._tokenizer, self._length = model, tokenizer, length
        self._most, self._precision, self._device = most, precision, device

    def wanted(self, text: str) -> bool:
        """Whether there is something to be filled in."""
        return self._tokenizer.mask_token in text

    def fill(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """For each text `fills`: a list for each of its masks, of the most probable tokens as `token` (its text), `id`
        and `probability`; `truncated` where the text is cut. A mask that is cut off is an `error`."""
        if not texts:
            return []
        mask = self._tokenizer.mask_token_id
        every = self._tokenizer(list(texts), truncation=True, max_length=self._length)["input_ids"]
        cut = [len(ids) > self._length for ids in self._tokenizer(list(texts), verbose=False)["input_ids"]]
        answers: list[dict[str, Any]] = [{} for _ in texts]
        by_length = defaultdict[int, list[int]](list)
        for number, (text, ids) in enumerate(zip(texts, every, strict=True)):
            if ids.count(mask) < text.count(self._tokenizer.mask_token):
                what = f"a {self._tokenizer.mask_token} is cut off: the text has more than {self._length} tokens"
                answers[number] = {"error": what}
            else:
                by_length[len(ids)].append(number)
        for length, numbers in by_length.items():
            size = max(1, min(_ROWS, _TOKENS // length))
            for start in range(0, len(numbers), size):
                some = numbers[start : start + size]
                for number, fills in zip(some, self._fills([every[n] for n in some]), strict=True):
                    answers[number] = {"fills": fills, **({"truncated": True} if cut[number] else {})}
        return answers

    def _fills(self, rows: Sequence[Sequence[int]]) -> list[list[list[dict[str, Any]]]]:
        import torch

        from launcher.train.precision import autocast

        ids = torch.tensor(rows, device=self._device)
        with torch.no_grad(), autocast(self._precision, self._device):
            logits = self._model(input_ids=ids).logits
        at, place = (ids == self._tokenizer.mask_token_id).nonzero(as_tuple=True)
        shares = logits[at, place].double().softmax(-1)
        found = shares.topk(min(self._most, shares.shape[-1]))
        fills: list[list[list[dict[str, Any]]]] = [[] for _ in rows]
        for row, tokens, values in zip(at.tolist(), found.indices.tolist(), found.values.tolist(), strict=True):
            fills[row].append([self._proposal(token, value) for token, value in zip(tokens, values, strict=True)])
        return fills

    def _proposal(self, token: int, probability: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token])
        return {"token": text, "id": token, "probability": float(f"{probability:.6g}")}


def no_scores(kind: str) -> UserError:
    """For a task of which `--top-k` cannot be asked."""
    return UserError(Problem("--top-k", f"task {kind} does not choose among classes or tokens (leave it out)"))
