"""Sums that metrics are made of: in fp64, whatever is added."""

import torch

from launcher.tasks._sum import Sum


def test_a_sum_keeps_what_single_precision_would_lose():
    meter = Sum()
    for value in (2.0**24, 1.0, 1.0):
        meter.update(torch.tensor(value))
    meter.update(torch.tensor(1e-9, dtype=torch.float64))
    assert meter.compute().dtype == torch.float64
    assert meter.compute().item() == 2.0**24 + 2.0 + 1e-9


def test_counts_and_half_precision_are_added_too():
    meter = Sum()
    meter.update(torch.tensor(3))
    meter.update(torch.tensor(0.5, dtype=torch.bfloat16))
    assert meter.compute().item() == 3.5


def test_a_sum_begins_anew_after_a_reset():
    meter = Sum()
    meter.update(torch.tensor(3.0))
    meter.reset()
    meter.update(torch.tensor(0.5))
    assert meter.compute().item() == 0.5


def test_over_ranks_it_is_a_sum():
    assert Sum()._reductions["value"](torch.tensor([1.0, 2.0])).item() == 3.0
