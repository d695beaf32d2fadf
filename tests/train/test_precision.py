import torch
import torch.utils.checkpoint
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.train import precision
from launcher.train.precision import LossScale, autocast, casts_kept

LARGEST, GROW_AFTER = 2.0**24, 2000


@given(st.integers(0, 40), st.lists(st.booleans(), max_size=60))
def test_a_scale_is_a_power_of_two_between_one_and_where_it_began_or_may_grow(power, overflows):
    scale = LossScale(2.0**power)
    for overflow in overflows:
        before = scale.value
        if overflow:
            assert scale.shrink() == (before > 1)
            assert scale.value == max(1.0, before / 2)
        else:
            scale.succeed(dynamic=True)
            assert scale.value == before
        assert float(scale.value).hex().startswith("0x1.0000000000000p")
        assert 1 <= scale.value <= 2.0**power


@given(st.integers(0, 30), st.integers(0, 3 * GROW_AFTER))
def test_it_doubles_after_two_thousand_steps_without_an_overflow_up_to_the_largest(power, steps):
    scale = LossScale(2.0**power)
    for _ in range(steps):
        scale.succeed(dynamic=True)
    expected = 2.0**power
    for _ in range(steps // GROW_AFTER):
        expected = expected * 2 if expected < LARGEST else expected
    assert scale.value == expected


@given(st.integers(1, GROW_AFTER - 1))
def test_an_overflow_begins_the_count_again(good):
    scale = LossScale(4.0)
    for _ in range(good):
        scale.succeed(dynamic=True)
    assert scale.shrink()
    for _ in range(GROW_AFTER - 1):
        scale.succeed(dynamic=True)
    assert scale.value == 2.0
    scale.succeed(dynamic=True)
    assert scale.value == 4.0


@given(st.integers(0, 2 * GROW_AFTER))
def test_what_needs_no_scale_has_none(steps):
    scale = LossScale.of("bf16")
    for _ in range(steps):
        scale.succeed(dynamic=False)
    assert scale.value == 1.0
    assert not scale.shrink()


def test_only_fp16_begins_with_one():
    assert {name: LossScale.of(name).value for name in ("fp32", "bf16", "fp16", "fp64")} == {
        "fp32": 1.0, "bf16": 1.0, "fp16": 2.0**16, "fp64": 1.0,
    }  # fmt: skip


class CastCount(TorchDispatchMode):
    """Counts the copies of fp32 tensors of the shape of the layer's weight, and the types of all matrix products."""

    def __init__(self):
        super().__init__()
        self.casts, self.products = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        self.casts += name == "_to_copy" and args[0].shape == (5, 3) and args[0].dtype == torch.float32
        self.products |= {args[0].dtype} if name == "mm" else set()
        return func(*args, **(kwargs or {}))


def accumulated(kept):
    """Return the gradient of three micro-batches in bf16 and an fp32 product after it, the number of casts of the
    weight, and the types of products. `kept`: whether the casts are kept."""
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    layer, more = torch.nn.Linear(3, 5), torch.nn.Parameter(torch.randn(5, 2))
    with CastCount() as count, casts_kept("bf16" if kept else "fp32", cpu) as backward:
        for _ in range(3):
            with autocast("bf16", cpu):
                hidden = layer(torch.randn(4, 3))
                with torch.autocast("cpu", enabled=False):
                    loss = (hidden.float() @ more).square().sum()
            with backward:
                loss.backward()
    return torch.cat([layer.weight.grad.flatten(), more.grad.flatten()]), count.casts, count.products


def test_a_weight_is_cast_once_for_all_micro_batches_and_the_gradient_keeps_every_bit():
    plain, casts, products = accumulated(kept=False)
    once, fewer, same = accumulated(kept=True)
    assert (casts, fewer) == (3, 1)
    assert products == same  # the backward of an fp32 product stays in fp32
    assert torch.equal(plain, once)


def test_a_layer_that_is_recomputed_has_its_gradients_with_kept_casts():
    """A reentrant checkpoint runs its forward without gradients, whose casts must not be used by the recomputation."""
    layer, inputs = torch.nn.Linear(3, 5), torch.randn(4, 3, requires_grad=True)
    cpu = torch.device("cpu")
    with casts_kept("bf16", cpu) as backward:
        for _ in range(2):
            with autocast("bf16", cpu):
                loss = torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=True).float().sum()
            with backward:
                loss.backward()
    assert torch.allclose(layer.bias.grad, torch.full((5,), 8.0))


def test_casts_are_not_kept_where_torch_uses_copies_without_a_gradient(monkeypatch):
    monkeypatch.setattr(precision, "_copies_have_gradients", lambda kind, dtype: False)
    assert accumulated(kept=True)[1] == 3
