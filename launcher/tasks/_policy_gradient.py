"""What a policy gradient is made of: baseline, surrogate, and divergence from a reference."""

import torch


def surrogate(
    logs: torch.Tensor, before: torch.Tensor, there: torch.Tensor, rewards: torch.Tensor, kl: float, many: int
) -> torch.Tensor:
    """What has the policy gradient for its gradient, by prompt: the mean over its completions of
    -(R - baseline) * log p(completion) + kl * mean over tokens of k2.

    k2 = (log p - log q)^2 / 2 (Schulman, 2020), since on tokens sampled from p its gradient is an unbiased estimate of
    that of KL(p || q) at each token, which k3's is not (Tang and Munos, 2025). logs, before, there: shape
    (prompts * many, steps), the logarithms of the sampled tokens' probabilities now and at the start, and which tokens
    count; rewards: (prompts * many).
    """
    advantage = leave_one_out(rewards.view(-1, many)).flatten()
    reinforced = -advantage * (logs * there).sum(1)
    apart = ((logs - before) ** 2 / 2 * there).sum(1) / there.sum(1)
    return (reinforced + kl * apart).view(-1, many).mean(1)


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """Each reward less the mean of the others of its prompt (Kool et al., 2019). Shape (prompts, completions)."""
    many = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (many / (many - 1))


def k3(logs: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """An estimate of KL(p || q) from a token that p gave, never negative: q / p - 1 - log(q / p) (Schulman, 2020)."""
    gap = before - logs
    return gap.expm1() - gap
