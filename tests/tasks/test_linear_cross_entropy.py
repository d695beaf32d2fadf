"""Loss and gradients of a linear layer in blocks of rows: those of the whole logits, in every precision."""

import weakref

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from launcher.plan import logit_blocks
from launcher.tasks import IGNORE, _linear_cross_entropy

ROWS, WIDTH, CLASSES = 37, 12, 53
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.fixture(params=[(1, 1), (8, 3), (1000, 1000)], ids="blocks of {0[0]} rows".format)
def sizes(request, monkeypatch):
    """Rows of a block and of a part of it."""
    monkeypatch.setattr(logit_blocks, "rows_of_block", lambda classes, width, device: request.param[0])
    monkeypatch.setattr(logit_blocks, "rows_of_part", lambda classes, width, device: request.param[1])


def layer_of(dtype=torch.float64, bias=True):
    torch.manual_seed(3)
    inputs, weight = torch.randn(ROWS, WIDTH, dtype=dtype), torch.randn(CLASSES, WIDTH, dtype=dtype)
    labels = torch.randint(0, CLASSES, (ROWS,))
    labels[[4, 20]] = IGNORE
    leaves = [inputs, weight, torch.randn(CLASSES, dtype=dtype)] if bias else [inputs, weight]
    return [leaf.requires_grad_() for leaf in leaves], labels


def plain(leaves, labels):
    logits = linear(*leaves)
    full = torch.promote_types(logits.dtype, torch.float32)
    return cross_entropy(logits.to(full), labels, ignore_index=IGNORE, reduction="sum")


def blocked(leaves, labels):
    inputs, weight, *bias = leaves
    return _linear_cross_entropy.summed(inputs, weight, bias[0] if bias else None, labels)


def off(found, expected):
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", CLOSE)
def test_loss_and_gradients_are_those_of_the_whole_logits(dtype, bias, sizes):
    leaves, labels = layer_of(dtype, bias)
    expected, found = plain(leaves, labels), blocked(leaves, labels)
    assert found.dtype == dtype
    assert off(found, expected) < CLOSE[dtype]
    factor = 0.37  # a training step divides by the weight of its global batch
    pairs = [torch.autograd.grad(loss * factor, leaves) for loss in (found, expected)]
    for one, like in zip(*pairs, strict=True):
        assert one.dtype == dtype
        assert off(one, like) < CLOSE[dtype]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_as_near_to_the_exact_one_as_the_plain_computation(kind, sizes):
    """With fp16's loss scale, too, under which small probabilities must not become zero."""
    leaves, labels = layer_of(torch.float32)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = plain(exact, labels)
    scale = 2.0**12 / ROWS
    with torch.autocast("cpu", dtype=kind):
        losses = {"plain": plain(leaves, labels), "blocked": blocked(leaves, labels)}
    assert losses["blocked"].dtype == torch.float32
    right = torch.autograd.grad(expected * scale, exact)
    assert off(losses["blocked"], expected) < 2**-9
    errors = {
        name: [off(one, like) for one, like in zip(torch.autograd.grad(loss * scale, leaves), right, strict=True)]
        for name, loss in losses.items()
    }
    for found, like in zip(errors["blocked"], errors["plain"], strict=True):
        assert found < 1.5 * like


def test_probabilities_too_small_for_fp16_still_have_gradients(sizes):
    leaves, labels = layer_of(torch.float32, bias=False)
    shift = torch.zeros(CLASSES)
    shift[labels[0]] = 14.0  # every other probability is some 1e-6
    inputs, weight = leaves
    with torch.autocast("cpu", dtype=torch.float16):
        loss = _linear_cross_entropy.summed(inputs * 0 + 1e-3, weight, shift, labels[:1].repeat(ROWS))
    (found,) = torch.autograd.grad(loss, weight)
    assert (found.abs().sum(1) > 0).all()


def test_a_label_of_probability_zero_has_a_finite_loss():
    inputs, weight = torch.full((2, 1), 100.0, requires_grad=True), torch.tensor([[0.0], [5.0]])
    loss = _linear_cross_entropy.summed(inputs, weight, None, torch.tensor([0, 1]))
    assert float(loss.detach()) == 500.0
    (found,) = torch.autograd.grad(loss, inputs)
    assert found.flatten().tolist() == [5.0, 0.0]


def test_rows_without_a_label_count_nothing():
    leaves, labels = layer_of()
    loss = blocked(leaves, torch.full_like(labels, IGNORE))
    assert float(loss.detach()) == 0.0
    assert not any(one.any() for one in torch.autograd.grad(loss, leaves))


def test_no_rows_have_gradients_of_zero():
    """Deterministic algorithms fill memory that is not initialised with NaN."""
    (inputs, weight, bias), labels = layer_of()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        loss = blocked([inputs[:0], weight, bias], labels[:0])
        found = torch.autograd.grad(loss, (inputs, weight, bias))
    finally:
        torch.use_deterministic_algorithms(before)
    assert float(loss.detach()) == 0.0
    assert [one.count_nonzero().item() for one in found] == [0, 0, 0]


def test_between_forward_and_backward_only_the_gradients_are_held():
    """The copies in half precision are freed: the weight's one is as large as half its gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Made(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.made = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.made.append(weakref.ref(result.untyped_storage()))
            return result

    leaves, labels = layer_of(torch.float32)
    with Made() as mode, torch.autocast("cpu", dtype=torch.bfloat16):
        loss = blocked(leaves, labels)
    alive = {one.data_ptr(): one.nbytes() for one in (made() for made in mode.made) if one is not None}
    own = [leaf.untyped_storage().data_ptr() for leaf in leaves]
    held = sorted(size for place, size in alive.items() if place not in own and size > loss.nbytes)
    assert held == sorted(leaf.nbytes for leaf in leaves)


def test_a_second_backward_is_refused_with_a_sentence():
    leaves, labels = layer_of()
    loss = blocked(leaves, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="for one backward: compute the loss again"):
        loss.backward()


def test_only_the_gradients_that_are_needed_are_computed(sizes):
    leaves, labels = layer_of()
    for wanted in range(3):
        some = [leaf.detach().requires_grad_(number == wanted) for number, leaf in enumerate(leaves)]
        expected, found = (torch.autograd.grad(loss(some, labels), some[wanted])[0] for loss in (plain, blocked))
        assert off(found, expected) < 1e-12


def test_scores_are_the_loss_of_each_row_and_whether_its_label_is_the_first_largest(sizes):
    leaves, labels = layer_of()
    with torch.no_grad():
        logits = linear(*leaves)
        expected = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        losses, correct = _linear_cross_entropy.by_label(*leaves, labels).unbind(1)
        assert torch.allclose(losses, expected, rtol=1e-12, atol=0)
        assert torch.equal(correct.bool(), logits.argmax(1) == labels)
        same = _linear_cross_entropy.by_label(torch.zeros(2, 1), torch.ones(3, 1), None, torch.tensor([0, 1]))
        assert same[:, 1].tolist() == [1.0, 0.0]
        assert torch.equal(_linear_cross_entropy.summed(*leaves, labels), losses.sum())


def test_no_more_logits_exist_than_a_block_has(monkeypatch):
    """The largest tensor that is created has the rows of a block, or the shape of the weight."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
            return result

    monkeypatch.setattr(logit_blocks, "rows_of_block", lambda classes, width, device: 8)
    leaves, labels = layer_of()
    with Largest() as largest:
        blocked(leaves, labels).backward()
    assert largest.size == CLASSES * WIDTH


def test_a_block_has_a_limited_size_on_every_device():
    for device, limit in (("cpu", 2**26), ("cuda", 2**28)):
        rows = logit_blocks.rows_of_block(30522, 2, device)
        assert limit / 2 < rows * 30522 * 2 <= limit
    assert logit_blocks.rows_of_part(30522, 4, "cpu") == 34
    assert logit_blocks.rows_of_block(2**30, 4, "cpu") == 1
