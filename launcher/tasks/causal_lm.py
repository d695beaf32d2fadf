"""Causal language modelling: predict each token from those before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from launcher.config.errors import Problem, UserError
from launcher.contract import random
from launcher.tasks import IGNORE, Batch, Row, Sample, _pretraining, _text

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


_FEW = 64
"""Tokens that are enough to see whether a model looks ahead: one among thousands would hardly show."""


class Config(_pretraining.PretrainingConfig):
    kind: Literal["causal_lm"] = "causal_lm"


class Task(_pretraining.Pretraining):
    auto_class = "AutoModelForCausalLM"
    causal = True

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts

    def options(self) -> dict[str, Any]:
        return {"is_decoder": True, "use_cache": False}

    def outputs(self, length: int) -> float:
        return float(length * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        return [self._sample(row["input_ids"].astype(np.int64)) for row in rows]

    def _sample(self, tokens: Any) -> Sample:
        """`labels` at each position: the token that comes next; none at the last."""
        return {"input_ids": tokens, "labels": np.append(tokens[1:], IGNORE)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = _text.pad([s["labels"] for s in samples], IGNORE)
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        return {**self._padded(samples), "rows": rows, "labels": labels.ravel()}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        if looks_ahead(model, batch["inputs"]["input_ids"]):
            what = f"{type(model).__name__} sees the tokens that it should predict (a decoder such as gpt2 does not)"
            raise UserError(Problem("model", what))
        self._try_packing(model, batch)
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        return _text.full_precision(model(**self._inputs(batch)).logits.flatten(0, 1))

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        return escape(" ".join(tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist())))


def looks_ahead(model: "torch.nn.Module", tokens: "torch.Tensor") -> bool:
    """Whether another last token changes what the model says of those before it, by more than rounding: a new model
    says little of anything, so this is seen beside the change at the token itself. tokens: shape (samples, length)."""
    import torch

    training = model.training
    model.eval()
    few = tokens[:, :_FEW] if tokens.shape[1] > 1 else tokens.repeat(1, 2)
    other = few.clone()
    other[:, -1] = (other[:, -1] + 1) % model.get_input_embeddings().num_embeddings
    with torch.no_grad():
        change = (model(input_ids=few).logits - model(input_ids=other).logits).abs()
    model.train(training)
    return bool(change[:, :-1].max() > 1e-5 * change[:, -1].max())
