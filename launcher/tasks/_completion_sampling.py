"""Completions of prompts, sampled from a causal model with numbers that were drawn before.

A token takes one uniform number: the inverse of the cumulative distribution, summed in fp64, is looked up at it. The
Gumbel-max trick would need a number for each token of the vocabulary; and summed in less than fp64, rounding would
decide among rare tokens. The rows of a batch do not see each other, nor what is padded, since a causal model looks back
alone: so a completion does not know what it was sampled beside.
"""

from dataclasses import dataclass
from typing import Any

import torch

from launcher.config.errors import Problem, UserError
from launcher.tasks import _masked_head, _token_batches


@dataclass(frozen=True)
class CompletionSampler:
    """`rows`: prompts each followed by its completion, shape (n, longest prompt + steps). `tokens`: the completions
    alone, shape (n, steps); `there`: which of their tokens count, which are those up to the end token. `places`: flat
    indices into `rows` of the positions that predict them, shape (n * steps)."""

    rows: torch.Tensor
    tokens: torch.Tensor
    there: torch.Tensor
    places: torch.Tensor


class TokenProbabilities:
    """A model asked for the logarithms of the probabilities of next tokens, softened by `temperature`. `head`: the
    model's own, on single places, where that is exact."""

    def __init__(self, model: Any, head: Any, temperature: float):
        self.model, self.head, self.temperature = model, head, temperature

    def __call__(self, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Of the tokens after `places` (flat indices into rows): shape (len(places), vocabulary), fp32 or fp64."""
        logits = _token_batches.full_precision(_masked_head.logits(self.model, {"input_ids": rows}, places, self.head))
        return torch.log_softmax(logits / self.temperature, dim=-1)

    def of(self, made: CompletionSampler) -> torch.Tensor:
        """Of the tokens of completions, shape (n, steps)."""
        logs = self(made.rows, made.places).gather(1, made.tokens.reshape(-1, 1))
        return logs.view(made.tokens.shape)


@torch.no_grad()  # type: ignore[untyped-decorator]
def complete(
    read: TokenProbabilities,
    prompts: torch.Tensor,
    lengths: torch.Tensor,
    draws: torch.Tensor,
    ends: list[int],
    padding: int,
) -> CompletionSampler:
    """Sample with a forward for each step, as many on every rank. prompts: shape (n, longest), padded at the end;
    lengths: (n,); draws: numbers in [0, 1), shape (n, steps); `ends`: tokens that end a completion."""
    count, steps = draws.shape
    rows = torch.nn.functional.pad(prompts, (0, steps), value=padding)
    first = torch.arange(count, device=rows.device)
    alive = torch.ones(count, dtype=torch.bool, device=rows.device)
    there = list[torch.Tensor]()
    for step in range(steps):
        seen = rows[:, : prompts.shape[1] + step]
        logs = read(seen, first * seen.shape[1] + lengths + step - 1)
        token = torch.where(alive, pick(logs, draws[:, step]), padding)
        rows[first, lengths + step] = token
        there.append(alive)
        alive = alive & ~torch.isin(token, torch.tensor(ends, dtype=token.dtype, device=token.device))
    after = lengths[:, None] + torch.arange(steps, device=rows.device)
    places = (first[:, None] * rows.shape[1] + after - 1).flatten()
    return CompletionSampler(rows, rows.gather(1, after), torch.stack(there, 1), places)


def pick(logs: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """The token of each row at which the cumulative distribution passes its number. logs: shape (n, vocabulary);
    draws: (n,), in [0, 1)."""
    shares = logs.double().exp().cumsum(-1)
    found = torch.searchsorted(shares, draws[:, None] * shares[:, -1:], right=True).squeeze(1)
    return found.clamp(max=logs.shape[-1] - 1)


def without_dropout(model: torch.nn.Module, ids: torch.Tensor) -> list[str]:
    """Take every dropout out of the model: what is sampled from and what learns have to be the same model, in training
    as in an evaluation. Tried: raises UserError where a forward still depends on chance or on the mode."""
    found = 0
    for module in model.modules():
        dropout = isinstance(module, torch.nn.modules.dropout._DropoutNd)
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and value and ("drop" in name or (dropout and name == "p")):
                setattr(module, name, 0.0)
                found += 1
    training = model.training
    with torch.no_grad():
        one, other = (model.train(mode)(input_ids=ids).logits for mode in (True, False))
    model.train(training)
    if not torch.equal(one, other):
        what = f"{type(model).__name__} computes something else in training than in an evaluation, without dropout too"
        raise UserError(Problem("model", f"{what}: what it samples would not be what learns"))
    return ["dropout is off: what is sampled from and what learns are the same model"] if found else []
