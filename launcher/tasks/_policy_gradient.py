"""Parts of a policy gradient: rewards, baseline, surrogate loss, and divergence from a reference model."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, SupportsFloat

from launcher.config.errors import Problem, UserError

if TYPE_CHECKING:
    import torch

RewardFunction = Callable[[str, str], SupportsFloat]
"""A function (prompt, completion) -> reward."""


def reward(function: RewardFunction, name: str, prompt: str, completion: str) -> float:
    """Return the reward of a completion. name: the function's path in the recipe. Raises UserError, with the function's
    arguments, if it raises an exception or returns no finite number."""
    call = f"{name}({prompt[-80:]!r}, {completion[:80]!r})"
    try:
        value = function(prompt, completion)
        number = float(value)
    except Exception as error:  # a user's code may raise anything
        what = f"{call} raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(Problem("task.reward", what)) from None
    if not math.isfinite(number):
        raise UserError(Problem("task.reward", f"{call} gave {value}, which is no finite number"))
    return number


def surrogate(
    logs: "torch.Tensor",
    reference: "torch.Tensor",
    mask: "torch.Tensor",
    rewards: "torch.Tensor",
    kl: float,
    completions: int,
) -> "torch.Tensor":
    """Return a loss for each prompt, shape (prompts,), whose gradient is the policy gradient.

    The loss is the mean over the prompt's completions of -(R - baseline) * log p(completion) + kl * (mean of k2 over
    tokens), where k2 = (log p - log q)^2 / 2 (Schulman, 2020). On tokens sampled from p, the gradient of k2 is an
    unbiased estimate of the gradient of KL(p || q) at each token; the gradient of k3 is not (Tang and Munos, 2025).

    logs, reference: log probabilities of the sampled tokens under the model and the reference; mask: True for tokens
    that count. These have shape (prompts * completions, steps). rewards: shape (prompts * completions,).
    """
    advantage = leave_one_out(rewards.view(-1, completions)).flatten()
    reinforce = -advantage * (logs * mask).sum(1)
    divergence = ((logs - reference) ** 2 / 2 * mask).sum(1) / mask.sum(1)
    return (reinforce + kl * divergence).view(-1, completions).mean(1)


def leave_one_out(rewards: "torch.Tensor") -> "torch.Tensor":
    """Return each reward minus the mean reward of the prompt's other completions (Kool et al., 2019). rewards: shape
    (prompts, completions)."""
    completions = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (completions / (completions - 1))


def k3(logs: "torch.Tensor", reference: "torch.Tensor") -> "torch.Tensor":
    """Return an estimate of KL(p || q) at each token sampled from p: q / p - 1 - log(q / p) (Schulman, 2020). It is
    never negative. logs, reference: log probabilities under p and q."""
    difference = reference - logs
    return difference.expm1() - difference
