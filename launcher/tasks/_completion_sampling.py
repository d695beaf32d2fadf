"""Completions of prompts, sampled from a causal model with random numbers that are drawn beforehand.

Each token is sampled from one uniform number, by inverting the cumulative distribution. The cumulative sum is in fp64,
because rounding in fp32 would affect which rare token is sampled. (The Gumbel-max trick would need a number for each
token of the vocabulary.) A causal model attends only to earlier tokens of the same row. So a completion depends neither
on the rest of its batch nor on padding.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from launcher.config.errors import Problem, UserError
from launcher.tasks import _masked_head

if TYPE_CHECKING:
    from launcher.tasks._masked_head import MaskedHead


@dataclass(frozen=True)
class Completions:
    """Sampled completions.

    rows: prompts, each followed by its completion, shape (n, longest prompt + steps).
    tokens: the completions, shape (n, steps).
    mask: True for each token up to the end token, inclusive, shape (n, steps).
    places: flat indices into `rows` of the positions that predict the tokens, shape (n * steps,).
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor


class TokenLogProbabilities:
    """Log probabilities of next tokens under a model, at a temperature. head: see `_masked_head.attach`."""

    def __init__(self, model: torch.nn.Module, head: "MaskedHead | None", temperature: float):
        self.model, self.head, self.temperature = model, head, temperature

    def __call__(self, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the log probabilities of the next token at each place, shape (len(places), vocabulary), fp32 or fp64.
        places: flat indices into `rows`."""
        logits = _masked_head.logits(self.model, {"input_ids": rows}, places, self.head)
        return torch.log_softmax(logits / self.temperature, dim=-1)

    def of(self, completions: Completions) -> torch.Tensor:
        """Return the log probabilities of the sampled tokens, shape (n, steps)."""
        logs = self(completions.rows, completions.places).gather(1, completions.tokens.reshape(-1, 1))
        return logs.view(completions.tokens.shape)


@torch.no_grad()  # type: ignore[untyped-decorator]
def sample(
    policy: TokenLogProbabilities,
    prompts: torch.Tensor,
    lengths: torch.Tensor,
    draws: torch.Tensor,
    ends: list[int],
    padding: int,
) -> Completions:
    """Sample completions, with one forward pass for each step, so that all ranks run the same number.

    prompts: shape (n, longest), padded on the right; lengths: shape (n,); draws: numbers in [0, 1), shape (n, steps);
    ends: ids of the tokens that end a completion; padding: the id of the padding token.
    """
    count, steps = draws.shape
    rows = torch.nn.functional.pad(prompts, (0, steps), value=padding)
    first = torch.arange(count, device=rows.device)
    alive = torch.ones(count, dtype=torch.bool, device=rows.device)
    mask = list[torch.Tensor]()
    for step in range(steps):
        seen = rows[:, : prompts.shape[1] + step]
        logs = policy(seen, first * seen.shape[1] + lengths + step - 1)
        token = torch.where(alive, pick(logs, draws[:, step]), padding)
        rows[first, lengths + step] = token
        mask.append(alive)
        alive = alive & ~torch.isin(token, torch.tensor(ends, dtype=token.dtype, device=token.device))
    positions = lengths[:, None] + torch.arange(steps, device=rows.device)
    places = (first[:, None] * rows.shape[1] + positions - 1).flatten()
    return Completions(rows, rows.gather(1, positions), torch.stack(mask, 1), places)


def pick(logs: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Return for each row the first token at which the cumulative distribution exceeds the draw, shape (n,). logs: log
    probabilities, shape (n, vocabulary); draws: numbers in [0, 1), shape (n,)."""
    cumulative = logs.double().exp().cumsum(-1)
    tokens = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return tokens.clamp(max=logs.shape[-1] - 1)


def remove_dropout(model: torch.nn.Module, ids: torch.Tensor) -> list[str]:
    """Set every dropout rate of the model to 0, and return notes for the user.

    Otherwise the trained model would differ from the model that samples. Raises UserError if the logits in training
    mode still differ from those in eval mode. ids: token ids for a trial forward.
    """
    removed = 0
    for module in model.modules():
        dropout = isinstance(module, torch.nn.modules.dropout._DropoutNd)
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and value and ("drop" in name or (dropout and name == "p")):
                setattr(module, name, 0.0)
                removed += 1
    training = model.training
    with torch.no_grad():
        one, other = (model.train(mode)(input_ids=ids).logits for mode in (True, False))
    model.train(training)
    if not torch.equal(one, other):
        what = f"{type(model).__name__} computes something else in training than in an evaluation, without dropout too"
        raise UserError(Problem("model", f"{what}: what it samples would not be what learns"))
    return ["dropout is off: what is sampled from and what learns are the same model"] if removed else []
