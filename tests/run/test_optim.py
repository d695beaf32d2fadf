import torch

from launcher.config.optimizers import AdamW
from launcher.run import optim


def test_biases_and_norms_do_not_decay_and_the_frozen_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    model[2].weight.requires_grad_(False)
    groups = optim.make(AdamW(lr=0.1, weight_decay=0.3), model).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["fused"]) for g in groups] == [(1, 0.3, True), (4, 0.0, True)]


def test_a_step_is_that_of_the_paper():
    """Loshchilov and Hutter, 2019, algorithm 2, at the first step: m = g, v = g^2 after the bias correction."""
    weight, gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(weight)
    model.weight.grad = gradient.clone()
    optim.make(AdamW(lr=0.1, weight_decay=0.3), model).step()
    expected = weight * (1 - 0.1 * 0.3) - 0.1 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(model.weight.data, expected, rtol=1e-12)
