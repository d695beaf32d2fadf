"""Each random function of torch, given its numbers, returns what torch's own formula makes of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn
from torch.overrides import resolve_name

from launcher.contract.dropout import kept
from launcher.tasks import _sequence_attention
from launcher.tasks._sequences import Sequences
from launcher.train.random_interception import COMPOSED, REPLACEMENTS, Interception

P_VALUE = 1e-6
MANY = 2**17
RATE = 0.25
"""A rate that is exact, so that 1 - RATE is the share that is kept."""


class RegressionTargets:
    """Draws from numpy; what was asked for and what was given."""

    def __init__(self, seed: int = 0, all_kept: bool = False):
        self.generator, self.all_kept = np.random.default_rng(seed), all_kept
        self.asked, self.given, self.devices = list[tuple](), list[torch.Tensor](), list[torch.device]()

    def keep(self, shape, rate, device):
        made = torch.from_numpy(np.asarray(self.all_kept | (self.generator.random(tuple(shape)) >= rate)))
        return self._note(("keep", tuple(shape), rate), made, device)

    def keep_by_run(self, sequences, heads, rate, device):
        shapes = [(run.sequences, heads, run.length, run.length) for run in sequences.runs]
        return [self.keep(shape, rate, device) for shape in shapes]

    def uniform(self, shape, device):
        made = (self.generator.integers(0, 2**23, tuple(shape)) + 0.5) * 2.0**-23
        return self._note(("uniform", tuple(shape)), torch.from_numpy(np.asarray(made)).float(), device)

    def _note(self, asked, made, device):
        self.asked.append(asked)
        self.given.append(made)
        self.devices.append(device)
        return made


def inside(call: Callable[[], torch.Tensor], **how) -> tuple[torch.Tensor, RegressionTargets]:
    numbers = RegressionTargets(**how)
    with Interception(numbers):
        return call(), numbers


@dataclass
class Case:
    """A call, what it asks of the draws, and torch's formula of the numbers that it is given."""

    call: Callable[[], torch.Tensor]
    asked: list[tuple]
    formula: Callable[..., torch.Tensor]


def normal(numbers: torch.Tensor) -> torch.Tensor:
    return torch.special.ndtri(numbers.double()).float()


X = torch.linspace(-2, 3, 24).view(2, 3, 4)
WHOLE = ("uniform", (2, 3, 4))
SHARES = torch.linspace(0, 1, 24).view(2, 3, 4)
Q, K, V = (torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))


def channels(*sizes: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + math.prod(sizes)).view(sizes)


def feature_cases(function: Any, more: int) -> dict[str, Case]:
    x, ones = channels(2, 3, *[4] * more), (1,) * more
    return {
        "whole channels": Case(
            lambda: function(x, RATE), [("keep", (2, 3, *ones), RATE)], lambda there: x * there / (1 - RATE)
        ),
        "at half by default": Case(lambda: function(x), [("keep", (2, 3, *ones), 0.5)], lambda there: x * there / 0.5),
        "in place": Case(
            lambda: function(x.clone(), RATE, inplace=True),
            [("keep", (2, 3, *ones), RATE)],
            lambda there: x * there / (1 - RATE),
        ),
        "not training": Case(lambda: function(x, RATE, training=False), [], lambda: x),
        "a rate of zero": Case(lambda: function(x, 0.0), [], lambda: x),
    }


def gumbel_of_torch(numbers: torch.Tensor, logits: torch.Tensor, **how) -> torch.Tensor:
    """torch's function, where it draws from an exponential distribution handed the numbers instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(-numbers.log()))
        return F.gumbel_softmax(logits, **how)


def attention_of_torch(there: torch.Tensor, *tensors: torch.Tensor, attn_mask=None, is_causal=False, **how):
    """torch's own attention, written out in C++, with what it drops handed in. Masks of truth are biases to it."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape, dtype=tensors[0].dtype).masked_fill(~attn_mask, -torch.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(*tensors, attn_mask, RATE, is_causal, there, **how)[0]


def in_runs(there, **how):
    """torch's own attention of two sequences of 4 tokens and of one of 2, one after another."""
    parts = ROW[0, :, :8].unflatten(1, (2, 4)).transpose(0, 1), ROW[:, :, 8:]
    mixed = [attention_of_torch(kept, part, part, part, **how) for kept, part in zip(there, parts, strict=True)]
    return torch.cat([one.transpose(1, 2).flatten(0, 1) for one in mixed])[None]


ROW = torch.randn(1, 3, 10, 8, generator=torch.Generator().manual_seed(3))
LENGTHS = _sequence_attention.Row(Sequences((4, 4, 2)), torch.tensor([0, 4, 8, 10]))
SOME = torch.tensor([[True, False, True, True], [True] * 4, [False, False, False, True], [True, True, False, False]])
CASES: dict[Any, dict[str, Case]] = {
    F.dropout: {
        "by place": Case(lambda: F.dropout(X, RATE), [("keep", (2, 3, 4), RATE)], lambda there: X * there / (1 - RATE)),
        "by name": Case(
            lambda: F.dropout(input=X, p=RATE, training=True, inplace=False),
            [("keep", (2, 3, 4), RATE)],
            lambda there: X * there / (1 - RATE),
        ),
        "at half by default": Case(lambda: F.dropout(X), [("keep", (2, 3, 4), 0.5)], lambda there: X * there / 0.5),
        "a rate that is not exact": Case(
            lambda: F.dropout(X, 0.1), [("keep", (2, 3, 4), 0.1)], lambda there: X * there / kept(0.1)
        ),
        "in place": Case(
            lambda: F.dropout(X.clone(), RATE, inplace=True),
            [("keep", (2, 3, 4), RATE)],
            lambda there: X * there / (1 - RATE),
        ),
        "a scalar": Case(
            lambda: F.dropout(torch.tensor(3.0), RATE), [("keep", (), RATE)], lambda there: 3 * there / (1 - RATE)
        ),
        "nothing": Case(lambda: F.dropout(X[:0], RATE), [("keep", (0, 3, 4), RATE)], lambda there: X[:0]),
        "in half precision": Case(
            lambda: F.dropout(X.bfloat16(), 0.5), [("keep", (2, 3, 4), 0.5)], lambda there: X.bfloat16() * there / 0.5
        ),
        "not training": Case(lambda: F.dropout(X, RATE, training=False), [], lambda: X),
        "a rate of zero": Case(lambda: F.dropout(X, 0.0), [], lambda: X),
        "a module": Case(
            lambda: nn.Dropout(RATE).train()(X), [("keep", (2, 3, 4), RATE)], lambda there: X * there / (1 - RATE)
        ),
        "a module that is evaluated": Case(lambda: nn.Dropout(RATE).eval()(X), [], lambda: X),
    },
    torch.dropout: {
        "training": Case(
            lambda: torch.dropout(X, RATE, True), [("keep", (2, 3, 4), RATE)], lambda there: X * there / (1 - RATE)
        ),
        "not training": Case(lambda: torch.dropout(X, RATE, False), [], lambda: X),
    },
    F.dropout1d: feature_cases(F.dropout1d, 1),
    F.dropout2d: feature_cases(F.dropout2d, 2),
    F.dropout3d: feature_cases(F.dropout3d, 3),
    F.scaled_dot_product_attention: {
        "dropout": Case(
            lambda: F.scaled_dot_product_attention(Q, K, V, dropout_p=RATE),
            [("keep", (2, 3, 4, 4), RATE)],
            lambda there: attention_of_torch(there, Q, K, V),
        ),
        "a mask": Case(
            lambda: F.scaled_dot_product_attention(Q, K, V, SOME, RATE),
            [("keep", (2, 3, 4, 4), RATE)],
            lambda there: attention_of_torch(there, Q, K, V, attn_mask=SOME),
        ),
        "by name": Case(
            lambda: F.scaled_dot_product_attention(query=Q, key=K, value=V, attn_mask=SOME, dropout_p=RATE, scale=0.2),
            [("keep", (2, 3, 4, 4), RATE)],
            lambda there: attention_of_torch(there, Q, K, V, attn_mask=SOME, scale=0.2),
        ),
        "causal": Case(
            lambda: F.scaled_dot_product_attention(Q, K, V, None, RATE, True),
            [("keep", (2, 3, 4, 4), RATE)],
            lambda there: attention_of_torch(there, Q, K, V, is_causal=True),
        ),
        "without heads": Case(
            lambda: F.scaled_dot_product_attention(Q[0, 0], K[0, 0], V[0, 0], dropout_p=RATE),
            [("keep", (4, 4), RATE)],
            lambda there: attention_of_torch(there, Q[0, 0], K[0, 0], V[0, 0]),
        ),
        "a rate of zero": Case(
            lambda: F.scaled_dot_product_attention(Q, K, V, SOME),
            [],
            lambda: F.scaled_dot_product_attention(Q, K, V, SOME),
        ),
    },
    F.gumbel_softmax: {
        "soft": Case(lambda: F.gumbel_softmax(X), [WHOLE], lambda given: gumbel_of_torch(given, X)),
        "hard": Case(
            lambda: F.gumbel_softmax(X, hard=True), [WHOLE], lambda given: gumbel_of_torch(given, X, hard=True)
        ),
        "colder, along another axis": Case(
            lambda: F.gumbel_softmax(X, 0.3, dim=1), [WHOLE], lambda given: gumbel_of_torch(given, X, tau=0.3, dim=1)
        ),
        "hard, along another axis": Case(
            lambda: F.gumbel_softmax(X, 0.3, True, dim=0),
            [WHOLE],
            lambda given: gumbel_of_torch(given, X, tau=0.3, hard=True, dim=0),
        ),
    },
    torch.rand: {
        "sizes": Case(lambda: torch.rand(2, 3), [("uniform", (2, 3))], lambda given: given),
        "one size": Case(lambda: torch.rand(3), [("uniform", (3,))], lambda given: given),
        "a tuple": Case(lambda: torch.rand((2, 3)), [("uniform", (2, 3))], lambda given: given),
        "a tuple of one": Case(lambda: torch.rand((3,)), [("uniform", (3,))], lambda given: given),
        "a list": Case(lambda: torch.rand([2, 3]), [("uniform", (2, 3))], lambda given: given),
        "a shape": Case(lambda: torch.rand(X.shape), [WHOLE], lambda given: given),
        "a shape of one": Case(lambda: torch.rand(torch.Size([5])), [("uniform", (5,))], lambda given: given),
        "by name": Case(lambda: torch.rand(size=(2, 3)), [("uniform", (2, 3))], lambda given: given),
        "by name, of one": Case(lambda: torch.rand(size=(3,)), [("uniform", (3,))], lambda given: given),
        "by name, of none": Case(lambda: torch.rand(size=()), [("uniform", ())], lambda given: given),
        "a scalar of a list": Case(lambda: torch.rand([]), [("uniform", ())], lambda given: given),
        "a scalar of a tuple": Case(lambda: torch.rand(()), [("uniform", ())], lambda given: given),
        "nothing": Case(lambda: torch.rand(0, 2), [("uniform", (0, 2))], lambda given: given),
        "another precision": Case(
            lambda: torch.rand(2, 3, dtype=torch.float64), [("uniform", (2, 3))], lambda given: given.double()
        ),
        "half precision": Case(
            lambda: torch.rand((2, 3), dtype=torch.bfloat16), [("uniform", (2, 3))], lambda given: given.bfloat16()
        ),
        "no precision": Case(lambda: torch.rand(2, dtype=None), [("uniform", (2,))], lambda given: given),
        "a device": Case(lambda: torch.rand(2, device="cpu"), [("uniform", (2,))], lambda given: given),
        "a device that is one": Case(lambda: torch.rand(2, device=X.device), [("uniform", (2,))], lambda given: given),
        "no generator": Case(lambda: torch.rand(2, generator=None), [("uniform", (2,))], lambda given: given),
    },
    torch.randn: {
        "sizes": Case(lambda: torch.randn(2, 3), [("uniform", (2, 3))], normal),
        "a tuple": Case(lambda: torch.randn((2, 3)), [("uniform", (2, 3))], normal),
        "by name": Case(lambda: torch.randn(size=[2, 3]), [("uniform", (2, 3))], normal),
        "a scalar": Case(lambda: torch.randn([]), [("uniform", ())], normal),
        "another precision": Case(
            lambda: torch.randn(3, dtype=torch.float64, device="cpu"),
            [("uniform", (3,))],
            lambda given: normal(given).double(),
        ),
    },
    _sequence_attention.by_length: {
        "two runs": Case(
            lambda: _sequence_attention.by_length(ROW, ROW, ROW, LENGTHS, RATE, (-1, -1), None),
            [("keep", (2, 3, 4, 4), RATE), ("keep", (1, 3, 2, 2), RATE)],
            lambda *there: in_runs(there),
        ),
        "causal": Case(
            lambda: _sequence_attention.by_length(ROW, ROW, ROW, LENGTHS, RATE, (-1, 0), 0.7),
            [("keep", (2, 3, 4, 4), RATE), ("keep", (1, 3, 2, 2), RATE)],
            lambda *there: in_runs(there, is_causal=True, scale=0.7),
        ),
        "no dropout": Case(
            lambda: _sequence_attention.by_length(ROW, ROW, ROW, LENGTHS, 0.0, (-1, -1), None),
            [],
            lambda: _sequence_attention.by_length(ROW, ROW, ROW, LENGTHS, 0.0, (-1, -1), None),
        ),
    },
    torch.rand_like: {
        "alike": Case(lambda: torch.rand_like(X), [WHOLE], lambda given: given),
        "alike in precision": Case(lambda: torch.rand_like(X.double()), [WHOLE], lambda given: given.double()),
        "another precision": Case(
            lambda: torch.rand_like(X.long(), dtype=torch.float64), [WHOLE], lambda given: given.double()
        ),
    },
    torch.randn_like: {
        "alike": Case(lambda: torch.randn_like(X), [WHOLE], normal),
        "alike in precision": Case(lambda: torch.randn_like(X.double()), [WHOLE], lambda given: normal(given).double()),
        "another precision": Case(
            lambda: torch.randn_like(X, dtype=torch.float64), [WHOLE], lambda given: normal(given).double()
        ),
    },
    torch.bernoulli: {
        "shares": Case(lambda: torch.bernoulli(SHARES), [WHOLE], lambda given: (given < SHARES).float()),
        "shares by name": Case(lambda: torch.bernoulli(input=SHARES), [WHOLE], lambda given: (given < SHARES).float()),
        "a share": Case(lambda: torch.bernoulli(X, 0.3), [WHOLE], lambda given: (given < 0.3).float()),
        "a share by name": Case(
            lambda: torch.bernoulli(X.double(), p=0.3), [WHOLE], lambda given: (given < 0.3).double()
        ),
        "a share of none": Case(lambda: torch.bernoulli(X, 0), [WHOLE], lambda given: torch.zeros(2, 3, 4)),
    },
    torch.Tensor.bernoulli: {
        "shares": Case(lambda: SHARES.bernoulli(), [WHOLE], lambda given: (given < SHARES).float()),
        "a share": Case(lambda: X.bernoulli(0.3), [WHOLE], lambda given: (given < 0.3).float()),
        "a share by name": Case(lambda: X.bernoulli(p=0.3), [WHOLE], lambda given: (given < 0.3).float()),
    },
    torch.Tensor.bernoulli_: {
        "half by default": Case(lambda: X.clone().bernoulli_(), [WHOLE], lambda given: (given < 0.5).float()),
        "a share": Case(lambda: X.clone().bernoulli_(0.3), [WHOLE], lambda given: (given < 0.3).float()),
        "a share by name": Case(
            lambda: X.new_empty((2, 1)).bernoulli_(p=0.9), [("uniform", (2, 1))], lambda given: (given < 0.9).float()
        ),
        "shares": Case(lambda: X.clone().bernoulli_(SHARES), [WHOLE], lambda given: (given < SHARES).float()),
        "of integers": Case(lambda: X.long().bernoulli_(0.3), [WHOLE], lambda given: (given < 0.3).long()),
        "of truth": Case(lambda: X.bool().bernoulli_(0.3), [WHOLE], lambda given: given < 0.3),
    },
    torch.Tensor.uniform_: {
        "from zero to one": Case(lambda: X.clone().uniform_(), [WHOLE], lambda given: given),
        "by place": Case(lambda: X.clone().uniform_(-3, 5), [WHOLE], lambda given: given * 8 - 3),
        "by name": Case(lambda: X.clone().uniform_(**{"from": -3.0, "to": 5.0}), [WHOLE], lambda given: given * 8 - 3),
        "the end by name": Case(lambda: X.clone().uniform_(to=5), [WHOLE], lambda given: given * 5),
        "the beginning by place": Case(lambda: X.clone().uniform_(-3), [WHOLE], lambda given: given * 4 - 3),
        "both ways": Case(lambda: X.double().uniform_(-3, to=5), [WHOLE], lambda given: given.double() * 8 - 3),
    },
    torch.Tensor.normal_: {
        "by default": Case(lambda: X.clone().normal_(), [WHOLE], normal),
        "by place": Case(lambda: X.clone().normal_(3, 0.5), [WHOLE], lambda given: normal(given) * 0.5 + 3),
        "by name": Case(lambda: X.clone().normal_(std=0.5), [WHOLE], lambda given: normal(given) * 0.5),
    },
    torch.Tensor.exponential_: {
        "by default": Case(lambda: X.clone().exponential_(), [WHOLE], lambda given: -given.log()),
        "by place": Case(lambda: X.clone().exponential_(4.0), [WHOLE], lambda given: -given.log() / 4),
        "by name": Case(lambda: X.clone().exponential_(lambd=4.0), [WHOLE], lambda given: -given.log() / 4),
    },
}


def test_every_replacement_has_cases_and_nothing_else_has():
    assert CASES.keys() == {*REPLACEMENTS, F.gumbel_softmax}
    assert {F.gumbel_softmax, F.multi_head_attention_forward} == COMPOSED


class Everything:
    """Draws by which everything is kept, and the shapes that were asked for."""

    def __init__(self):
        self.shapes = []

    def keep(self, shape, rate, device):
        self.shapes.append(tuple(shape))
        return torch.ones(tuple(shape), dtype=torch.bool)


@pytest.mark.parametrize(("weights", "shape"), [(False, (3, 2, 5, 5)), (True, (6, 5, 5))])
def test_multi_head_attention_asks_for_the_draws_of_its_attention(weights, shape):
    """Its code is torch's own; without bias a scale of what is attended to is one of the output."""
    torch.manual_seed(0)
    module, x = nn.MultiheadAttention(8, 2, dropout=RATE, batch_first=True).double(), torch.randn(3, 5, 8).double()
    expected = module.eval()(x, x, x, need_weights=weights)[0]
    draws, before = Everything(), torch.get_rng_state()
    with Interception(draws):
        made = module.train()(x, x, x, need_weights=weights)[0]
    assert draws.shapes == [shape] and torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(made, expected / (1 - RATE), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{resolve_name(function)}, {name}".removeprefix("torch."))
        for function, cases in CASES.items()
        for name, case in cases.items()
    ],
)
def test_a_function_makes_of_its_numbers_what_torch_makes_of_them(case):
    before = torch.get_rng_state()
    made, numbers = inside(case.call)
    assert numbers.asked == case.asked
    assert all(device == torch.device("cpu") for device in numbers.devices)
    torch.testing.assert_close(made, case.formula(*numbers.given))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            next(iter(cases.values())), id=(resolve_name(function) or function.__name__).removeprefix("torch.")
        )
        for function, cases in CASES.items()
    ],
)
def test_outside_of_the_mode_torch_draws(case):
    numbers = RegressionTargets()
    with Interception(numbers):
        pass
    torch.manual_seed(3)
    one = case.call()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert not torch.equal(torch.get_rng_state(), after)
    torch.testing.assert_close(case.call(), one, rtol=0, atol=0)
    assert numbers.asked == []


GENERATED = {
    "rand": lambda g: torch.rand(2, 3, generator=g),
    "randn": lambda g: torch.randn((2, 3), generator=g),
    "bernoulli": lambda g: torch.bernoulli(SHARES, generator=g),
    "bernoulli of a tensor": lambda g: SHARES.bernoulli(generator=g),
    "bernoulli_": lambda g: X.clone().bernoulli_(0.3, generator=g),
    "uniform_": lambda g: X.clone().uniform_(-1, 2, generator=g),
    "normal_": lambda g: X.clone().normal_(1, 2, generator=g),
    "exponential_": lambda g: X.clone().exponential_(2, generator=g),
}


@pytest.mark.parametrize("call", GENERATED.values(), ids=GENERATED)
def test_a_function_that_is_given_a_generator_keeps_it(call):
    made, numbers = inside(lambda: call(torch.Generator().manual_seed(3)))
    assert torch.equal(made, call(torch.Generator().manual_seed(3)))
    assert numbers.asked == []


OTHERS = {
    "randint": lambda: torch.randint(0, 100, (5,)),
    "randperm": lambda: torch.randperm(20),
    "normal": lambda: torch.normal(torch.zeros(5), 2.0),
    "multinomial": lambda: torch.multinomial(torch.ones(20), 5),
    "random_": lambda: torch.zeros(5).random_(0, 100),
    "geometric_": lambda: torch.zeros(5).geometric_(0.3),
    "alpha_dropout": lambda: F.alpha_dropout(X, 0.3, True),
    "linear": lambda: F.linear(X, torch.ones(2, 4)),
    "softmax": lambda: X.softmax(-1),
    "zeros": lambda: torch.zeros(3),
}


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
def test_functions_that_are_not_in_the_table_run_as_they_are(call):
    torch.manual_seed(3)
    made, numbers = inside(call)
    torch.manual_seed(3)
    assert torch.equal(made, call())
    assert numbers.asked == []


def test_the_innermost_draws_are_asked_and_then_the_outer_ones_again():
    outer, inner = RegressionTargets(), RegressionTargets()
    with Interception(outer):
        torch.rand(1)
        with Interception(inner):
            torch.rand(2)
        torch.rand(3)
    assert outer.asked == [("uniform", (1,)), ("uniform", (3,))]
    assert inner.asked == [("uniform", (2,))]


def test_an_error_leaves_the_mode():
    numbers = RegressionTargets()
    with pytest.raises(ZeroDivisionError), Interception(numbers):
        raise ZeroDivisionError
    torch.rand(2)
    assert numbers.asked == []


# Devices, precision and gradients


@pytest.mark.parametrize("make", [torch.rand, torch.randn])
def test_numbers_are_asked_for_where_they_are_wanted(make):
    assert inside(lambda: make(2, device="meta"))[1].devices == [torch.device("meta")]
    assert inside(lambda: make(2, device=torch.device("meta")))[1].devices == [torch.device("meta")]
    with torch.device("meta"):
        assert inside(lambda: make(2))[1].devices == [torch.device("meta")]


@pytest.mark.parametrize("make", [torch.rand, torch.randn])
def test_the_default_precision_is_the_one_that_is_set(make):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert inside(lambda: make(2))[0].dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("make", [torch.rand, torch.randn])
def test_made_tensors_may_require_gradients(make):
    assert not inside(lambda: make(2))[0].requires_grad
    made, _ = inside(lambda: make(2, requires_grad=True))
    assert made.requires_grad and made.is_leaf


IN_PLACE = {
    "dropout": lambda x: F.dropout(x, RATE, inplace=True),
    "dropout1d": lambda x: F.dropout1d(x, RATE, inplace=True),
    "dropout at evaluation": lambda x: F.dropout(x, RATE, False, True),
    "bernoulli_": lambda x: x.bernoulli_(),
    "uniform_": lambda x: x.uniform_(),
    "normal_": lambda x: x.normal_(),
    "exponential_": lambda x: x.exponential_(),
}


@pytest.mark.parametrize("call", IN_PLACE.values(), ids=IN_PLACE)
def test_functions_in_place_return_the_tensor_that_they_were_given(call):
    x = X.clone()
    assert inside(lambda: call(x))[0] is x


NOT_IN_PLACE = {
    "dropout": lambda x: F.dropout(x, RATE),
    "dropout1d": lambda x: F.dropout1d(x, RATE),
    "bernoulli": lambda x: torch.bernoulli(x, 0.5),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, hard=True),
    "rand_like": torch.rand_like,
}


@pytest.mark.parametrize("call", NOT_IN_PLACE.values(), ids=NOT_IN_PLACE)
def test_other_functions_leave_their_tensor_as_it_was(call):
    x = X.clone()
    assert inside(lambda: call(x))[0] is not x
    assert torch.equal(x, X)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("drop", [F.dropout, F.dropout1d])
def test_gradients_flow_through_what_is_kept_alone_and_have_its_scale(drop, rate, in_place):
    leaf = X.clone().requires_grad_()
    made, numbers = inside(lambda: drop(leaf * 1, rate, inplace=in_place))
    made.sum().backward()
    expected = numbers.given[0].float().expand(X.shape) / kept(rate)
    torch.testing.assert_close(leaf.grad, expected)
    torch.testing.assert_close(made.detach(), X * expected)
    assert 0 < expected.count_nonzero() < expected.numel()


def test_what_is_kept_is_right_on_average():
    made, _ = inside(lambda: F.dropout(torch.ones(MANY), 0.3))
    share = float(made.count_nonzero()) / MANY
    assert abs(share - 0.7) < 5 * math.sqrt(0.21 / MANY)
    assert math.isclose(float(made.max()), 1 / kept(0.3), rel_tol=1e-6)


@pytest.mark.parametrize("hard", [False, True])
def test_gradients_of_gumbel_softmax_are_those_of_torch(hard):
    gradients = []
    weights = channels(2, 3, 4)
    leaf = X.clone().requires_grad_()
    made, numbers = inside(lambda: F.gumbel_softmax(leaf, 0.7, hard))
    (made * weights).sum().backward()
    gradients.append(leaf.grad)
    leaf = X.clone().requires_grad_()
    (gumbel_of_torch(numbers.given[0], leaf, tau=0.7, hard=hard) * weights).sum().backward()
    torch.testing.assert_close(gradients[0], leaf.grad)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gumbel_softmax_has_the_precision_of_its_logits(dtype):
    for hard in (False, True):
        made, _ = inside(lambda hard=hard: F.gumbel_softmax(X.to(dtype), hard=hard))
        assert made.dtype == dtype
        torch.testing.assert_close(made.sum(-1), torch.ones(2, 3, dtype=dtype))


# Attention


def qkv(heads: int = 4, kept_heads: int | None = None, queries: int = 5, keys: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, heads, queries, 8), (2, kept_heads or heads, keys, 8), (2, kept_heads or heads, keys, 6)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def of_some(*shape: int) -> torch.Tensor:
    """A mask, in which each query attends to something."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[..., 0] = True
    return mask


def bias(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


ATTENTION = {
    "plain": (qkv(), {}),
    "as many queries as keys": (qkv(keys=5), {}),
    "a mask": (qkv(), {"attn_mask": of_some(5, 7)}),
    "a mask of each sample": (qkv(), {"attn_mask": of_some(2, 1, 1, 7)}),
    "a mask of each head": (qkv(), {"attn_mask": of_some(2, 4, 5, 7)}),
    "a bias": (qkv(), {"attn_mask": bias(5, 7)}),
    "a bias of each head": (qkv(), {"attn_mask": bias(1, 4, 5, 7)}),
    "a bias that masks": (qkv(), {"attn_mask": bias(5, 7).masked_fill(~of_some(5, 7), -torch.inf)}),
    "causal": (qkv(keys=5), {"is_causal": True}),
    "causal with more keys": (qkv(), {"is_causal": True}),
    "causal with fewer keys": (qkv(queries=7, keys=5), {"is_causal": True}),
    "a scale": (qkv(), {"scale": 0.3}),
    "a scale and a mask": (qkv(), {"scale": 0.3, "attn_mask": of_some(5, 7)}),
    "fewer heads of keys": (qkv(4, 2), {"enable_gqa": True}),
    "one head of keys, causal": (qkv(4, 1, keys=5), {"enable_gqa": True, "is_causal": True}),
}
attentions = pytest.mark.parametrize(("tensors", "how"), ATTENTION.values(), ids=ATTENTION)


@attentions
def test_attention_that_drops_nothing_is_torchs_own(tensors, how):
    made, numbers = inside(lambda: F.scaled_dot_product_attention(*tensors, dropout_p=0.0, **how))
    assert torch.equal(made, F.scaled_dot_product_attention(*tensors, dropout_p=0.0, **how))
    assert numbers.asked == []


@attentions
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_attention_of_which_all_is_kept_is_torchs_own_times_the_scale(tensors, how, rate):
    made, numbers = inside(lambda: F.scaled_dot_product_attention(*tensors, dropout_p=rate, **how), all_kept=True)
    expected = F.scaled_dot_product_attention(*tensors, dropout_p=0.0, **how) / kept(rate)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    query, key, _ = tensors
    assert numbers.asked == [("keep", (*query.shape[:-1], key.shape[-2]), rate)]


@attentions
def test_attention_and_its_gradients_are_those_of_torchs_formula_for_what_is_kept(tensors, how):
    here, there = ([one.clone().requires_grad_() for one in tensors] for _ in range(2))
    made, numbers = inside(lambda: F.scaled_dot_product_attention(*here, dropout_p=RATE, **how))
    expected = attention_of_torch(numbers.given[0], *there, **how)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    weights = channels(*made.shape).double().sin()
    (made * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-11)


def test_a_bias_that_is_learnt_gets_its_gradients():
    tensors, (here, there) = qkv(), (bias(5, 7).requires_grad_() for _ in range(2))
    made, numbers = inside(lambda: F.scaled_dot_product_attention(*tensors, here, RATE))
    made.square().sum().backward()
    attention_of_torch(numbers.given[0], *tensors, attn_mask=there).square().sum().backward()
    torch.testing.assert_close(here.grad, there.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_queries_that_attend_to_nothing_give_finite_numbers_and_gradients(dtype):
    mask = of_some(5, 7)
    mask[2] = False
    leaves = [one.to(dtype).requires_grad_() for one in qkv()]
    made, _ = inside(lambda: F.scaled_dot_product_attention(*leaves, mask, RATE))
    assert made.isfinite().all()
    made.float().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_queries_that_attend_to_nothing_change_no_others():
    tensors, mask = qkv(), of_some(5, 7)
    whole, _ = inside(lambda: F.scaled_dot_product_attention(*tensors, mask, RATE))
    nothing = mask.clone()
    nothing[2] = False
    made, _ = inside(lambda: F.scaled_dot_product_attention(*tensors, nothing, RATE))
    assert torch.equal(made[..., [0, 1, 3, 4], :], whole[..., [0, 1, 3, 4], :])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_has_its_precision_and_is_near(dtype):
    tensors = qkv()
    made, numbers = inside(
        lambda: F.scaled_dot_product_attention(*[one.to(dtype) for one in tensors], of_some(5, 7), RATE)
    )
    assert made.dtype == dtype
    expected = attention_of_torch(numbers.given[0], *tensors, attn_mask=of_some(5, 7))
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=0.05)


def test_attention_in_mixed_precision_has_the_precision_of_torchs_own():
    tensors = [one.float() for one in qkv()]
    with torch.autocast("cpu", torch.bfloat16):
        made, numbers = inside(lambda: F.scaled_dot_product_attention(*tensors, dropout_p=RATE))
        own = F.scaled_dot_product_attention(*tensors, dropout_p=RATE)
    assert made.dtype == own.dtype
    expected = attention_of_torch(numbers.given[0], *tensors)
    torch.testing.assert_close(made.float(), expected, rtol=0, atol=0.05)


# Distributions


def test_numbers_are_spread_as_those_of_torch():
    rand, like, uniform, normal_, exponential, randn, randn_like = (
        inside(call, seed=seed)[0].double().numpy()
        for seed, call in enumerate(
            [
                lambda: torch.rand(MANY),
                lambda: torch.rand_like(torch.ones(MANY)),
                lambda: torch.empty(MANY).uniform_(-3, 5),
                lambda: torch.empty(MANY).normal_(3, 0.5),
                lambda: torch.empty(MANY).exponential_(4),
                lambda: torch.randn(MANY),
                lambda: torch.randn_like(torch.empty(MANY)),
            ]
        )
    )
    for made, distribution in [
        (rand, stats.uniform()),
        (like, stats.uniform()),
        (uniform, stats.uniform(-3, 8)),
        (normal_, stats.norm(3, 0.5)),
        (exponential, stats.expon(scale=0.25)),
        (randn, stats.norm()),
        (randn_like, stats.norm()),
    ]:
        assert stats.kstest(made, distribution.cdf).pvalue > P_VALUE
        assert abs(made.mean() - distribution.mean()) < 5 * distribution.std() / math.sqrt(MANY)
        assert math.isclose(made.std(), distribution.std(), rel_tol=0.02)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_shares_of_ones_are_right(share):
    for call in (
        lambda: torch.bernoulli(torch.full((MANY,), share)),
        lambda: torch.bernoulli(torch.ones(MANY), share),
        lambda: torch.full((MANY,), share).bernoulli(),
        lambda: torch.empty(MANY).bernoulli_(share),
    ):
        made, _ = inside(call)
        assert set(made.unique().tolist()) == {0.0, 1.0}
        assert stats.binomtest(int(made.sum()), MANY, share).pvalue > P_VALUE


def test_shares_of_zero_and_one_are_kept_exactly():
    assert not inside(lambda: torch.bernoulli(torch.zeros(MANY)))[0].any()
    assert inside(lambda: torch.bernoulli(torch.ones(MANY)))[0].all()
    assert inside(lambda: torch.empty(MANY).bernoulli_(1))[0].all()


def test_hard_gumbel_softmax_takes_each_class_as_often_as_its_share():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    made, _ = inside(lambda: F.gumbel_softmax(logits.expand(MANY, 4), tau=0.5, hard=True))
    expected = logits.double().softmax(0).numpy() * MANY
    assert stats.chisquare(made.sum(0).double().numpy(), expected, sum_check=False).pvalue > P_VALUE


def test_the_smallest_and_largest_numbers_give_finite_ones():
    class Ends(RegressionTargets):
        def uniform(self, shape, device):
            return torch.tensor([2**-24, 1 - 2**-24]).expand(tuple(shape))

    with Interception(Ends()):
        made = [
            torch.randn(2),
            torch.empty(2).normal_(),
            torch.empty(2).exponential_(),
            F.gumbel_softmax(torch.zeros(3, 2)),
            torch.rand(2),
        ]
    assert all(one.isfinite().all() for one in made)
    assert made[0].tolist() == [-made[0][1], made[0][1]] and float(made[0][1]) > 5
    assert float(made[2].min()) > 0
    assert float(made[4].max()) < 1


# Modules of torch


@pytest.mark.parametrize(
    ("module", "shape", "asked"),
    [
        (nn.Dropout(RATE), (2, 3, 4), (2, 3, 4)),
        (nn.Dropout(RATE, inplace=True), (2, 3, 4), (2, 3, 4)),
        (nn.Dropout1d(RATE), (2, 3, 4), (2, 3, 1)),
        (nn.Dropout2d(RATE), (2, 3, 4, 5), (2, 3, 1, 1)),
        (nn.Dropout3d(RATE), (2, 3, 4, 5, 2), (2, 3, 1, 1, 1)),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else None,
)
def test_modules_ask_for_what_their_functions_ask_for(module, shape, asked):
    made, numbers = inside(lambda: module.train()(torch.ones(shape)))
    assert numbers.asked == [("keep", asked, RATE)]
    torch.testing.assert_close(made, (numbers.given[0] / (1 - RATE)).expand(shape))
    made, numbers = inside(lambda: module.eval()(torch.ones(shape)))
    assert numbers.asked == [] and torch.equal(made, torch.ones(shape))


# What torch does too


def named(what: str, call: Callable[[], Any]) -> Any:
    return pytest.param(call, id=what)


def whole(shape: tuple[int, ...], call: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether each channel, the first axis, is kept or dropped as one."""
    made, _ = inside(lambda: call(torch.ones(shape)))
    return bool((made == made.reshape(len(made), -1)[:, 0].view(-1, *[1] * (made.ndim - 1))).all())


def written_to(call: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    out = torch.full((3,), -1.0)
    return inside(lambda: call(out))[0] is out and bool((out >= 0).all())


NOTHING_SEEN = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])


@pytest.mark.parametrize(
    "holds",
    [
        named(
            "torch.dropout names its third argument train",
            lambda: inside(lambda: torch.dropout(X, p=RATE, train=True))[1].asked == [("keep", (2, 3, 4), RATE)],
        ),
        named("dropout1d of one sample drops whole channels", lambda: whole((64, 8), lambda x: F.dropout1d(x, RATE))),
        named(
            "dropout3d of one sample drops whole channels",
            lambda: whole((64, 4, 3, 2), lambda x: F.dropout3d(x, RATE)),
        ),
        named("rand writes to out", lambda: written_to(lambda out: torch.rand(3, out=out))),
        named("bernoulli writes to out", lambda: written_to(lambda out: torch.bernoulli(torch.ones(3), out=out))),
        named(
            "rand_like may require gradients",
            lambda: inside(lambda: torch.rand_like(X, requires_grad=True))[0].requires_grad,
        ),
        named(
            "rand_like draws where it is told to",
            lambda: inside(lambda: torch.rand_like(X, device="meta"))[1].devices == [torch.device("meta")],
        ),
        named("a size may be an integer of numpy", lambda: inside(lambda: torch.rand(np.int64(3)))[0].shape == (3,)),
        named(
            "rand in half precision stays below one",
            lambda: float(inside(lambda: torch.rand(MANY, dtype=torch.bfloat16))[0].max()) < 1,
        ),
        named(
            "uniform_ stays below its end",
            lambda: float(inside(lambda: torch.empty(2**21).uniform_(8, 9))[0].max()) < 9,
        ),
        named(
            "queries that a bias lets attend to nothing give finite numbers",
            lambda: bool(
                inside(
                    lambda: F.scaled_dot_product_attention(
                        Q[..., :2, :], K[..., :2, :], V[..., :2, :], NOTHING_SEEN, RATE
                    )
                )[0]
                .isfinite()
                .all()
            ),
        ),
    ],
)
def test_what_torch_does_too(holds):
    assert holds()
