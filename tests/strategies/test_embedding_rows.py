"""Gradients of embedding tables, added by rows."""

import pytest
import torch
from support import ranks
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.strategies._embedding_rows import Table, convert
from launcher.strategies._torch_engine import ReplicatedEngine, TorchEngine

DENSE = torch.ops.aten.embedding_dense_backward.default
TOKENS = [torch.tensor([[3, 1, 3, 0], [0, 2, 3, 3]]), torch.tensor([[4, 0, 4, 1]]), torch.tensor([[2, 2]])]


class Tied(nn.Module):
    """A table that is also the output layer."""

    def __init__(self, padding):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(6, 4, padding_idx=padding, dtype=torch.float64)
        self.tied = True

    def forward(self, tokens):
        hidden = self.table(tokens)
        return ((hidden @ self.table.weight.T if self.tied else hidden) ** 3).sum()


class DenseCount(TorchDispatchMode):
    """Counts dense gradients of tables."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is DENSE
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("padding", [None, 0, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_the_gradient_of_a_step_is_that_of_dense_tables_and_only_its_first_is_dense(padding, tied):
    models = [Tied(padding), Tied(padding)]
    tables = convert(models[1], layers=[])
    for model, its in zip(models, ([], tables), strict=True):
        model.tied = tied
        engine = TorchEngine(model, model, torch.optim.SGD(model.parameters()), its)
        with DenseCount() as dense:
            for tokens in TOKENS:
                engine.backward(model(tokens))
        assert dense.count == (1 if its else 3)
    plain, rows = (model.table.weight.grad for model in models)
    assert torch.allclose(rows, plain, rtol=1e-12, atol=0)
    assert tied or padding is None or not rows[padding].any()


def averaged(process, steps):
    """The gradients of steps of 1, 2 and 3 micro-batches under DDP, with the number of dense ones."""
    model = Tied(None)
    tables = convert(model, layers=[])
    module = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    engine, found = ReplicatedEngine(module, model, torch.optim.SGD(model.parameters()), tables), []
    for count in steps:
        engine.clear()
        with DenseCount() as dense:
            for number, tokens in enumerate(TOKENS[:count], start=1):
                with engine.accumulating(last=number == count) as called:
                    engine.backward(called(tokens + process.rank % 2))
        found.append((model.table.weight.grad.clone().numpy(), dense.count))
    return found


def test_ddp_averages_gradients_that_were_added_by_rows():
    """Two ranks: some 5 s. Alone proves that DDP waits for a table that a backward gives no gradient."""
    steps = [1, 2, 3, 1]
    for every in ranks.on_ranks(2, averaged, steps):
        for count, (found, _) in zip(steps, every, strict=True):
            model = Tied(None)
            for tokens in TOKENS[:count]:
                (sum(model(tokens + rank) for rank in (0, 1)) / 2).backward()
            assert torch.allclose(torch.from_numpy(found), model.table.weight.grad, rtol=1e-12, atol=0)
        assert [dense for _, dense in every] == [1, 0, 0, 0]


def test_a_backward_that_is_not_the_engines_adds_nothing_to_the_gradient_of_the_step():
    model = Tied(None)
    convert(model, layers=[])
    model(TOKENS[0]).backward()
    before = model.table.weight.grad.clone()
    (own,) = torch.autograd.grad(model(TOKENS[0]), model.table.weight)
    assert torch.equal(own, before) and torch.equal(model.table.weight.grad, before)


class Scaled(nn.Embedding):
    def forward(self, input):
        return super().forward(input) * 2


def test_tables_that_compute_otherwise_and_those_in_layers_stay_as_they_are():
    with FakeTensorMode():
        without_values = nn.Embedding(4, 2, padding_idx=0)
    model = nn.ModuleDict(
        {
            "plain": nn.Embedding(4, 2),
            "scaled": Scaled(4, 2),
            "sparse": nn.Embedding(4, 2, sparse=True),
            "limited": nn.Embedding(4, 2, max_norm=1.0),
            "by_frequency": nn.Embedding(4, 2, scale_grad_by_freq=True),
            "elsewhere": nn.Embedding(4, 2, device="meta"),
            "traced": without_values,
            "layer": nn.Sequential(nn.Embedding(4, 2)),
        }
    )
    tables = convert(model, layers=[model["layer"]])
    assert tables == [model["plain"]]
    assert [name for name, module in model.named_modules() if type(module) is Table] == ["plain"]
