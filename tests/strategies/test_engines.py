"""What an engine hands out beside the steps that it takes."""

import support
import torch
from support import ranks, strategy_steps

from launcher.strategies._torch_engine import TorchEngine


class Nested(torch.nn.Module):
    """A model with a part named as torch's and DeepSpeed's wrappers name the model."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(2, 2)


def test_a_model_with_a_part_named_module_is_unwrapped_whole():
    model = Nested()
    assert TorchEngine(model, model, torch.optim.SGD(model.parameters(), lr=0.1)).unwrapped is model


def unwrapped(process, folder, strategies):
    """For each strategy, the names of the unwrapped model's parameters and those in the state."""
    found = []
    for strategy in strategies:
        engine = strategy_steps.build(process, folder, strategy).engine
        state = [name.removeprefix("model.") for name in engine.state_dict() if name.startswith("model.")]
        found.append(([name for name, _ in engine.unwrapped.named_parameters()], state))
    return found


def test_every_engine_hands_out_the_model_under_its_canonical_names(workspace):
    """Two ranks, as DDP and DeepSpeed wrap nothing on one: some 8 s. Alone proves which model each engine hands out."""
    kinds = [{"kind": "ddp"}, {"kind": "fsdp"}, *({"kind": "deepspeed", "zero": stage} for stage in (0, 2, 3))]
    folder = ranks.ready(support.write(support.small("named")), ranks=2).absolute()
    for every in ranks.on_ranks(2, unwrapped, folder, kinds):
        assert all(names and names == state for names, state in every)


def test_the_factor_is_read_only_for_optimisers_that_have_to_know(monkeypatch):
    """And in either way a factor that is no number changes nothing, and another one scales the gradient."""
    read = []
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: read.append(tensor) or tensor.item())

    def engine(make):
        model = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        optimizer = make([{"params": [model.weight], "scale": 1.0}])
        return model, TorchEngine(model, model, optimizer)

    class Own(torch.optim.AdamW):
        pass

    makes = {
        "adamw": (lambda groups: torch.optim.AdamW(groups, fused=True), 0),
        "adam": (lambda groups: torch.optim.Adam(groups, fused=True), 0),
        "own": (lambda groups: Own(groups, fused=True), 2),
        "loop": (lambda groups: torch.optim.AdamW(groups, foreach=False), 2),
        "sgd": (lambda groups: torch.optim.SGD(groups, momentum=0.9), 2),
    }
    for name, (make, reads) in makes.items():
        model, made = engine(make)
        read.clear()
        for factor, moved in ((torch.nan, False), (0.5, True)):
            before = model.weight.detach().clone()
            made.backward(model(torch.ones(1, 2)).sum())
            made.update(0.1, torch.tensor(factor, dtype=torch.float64))
            assert torch.equal(before, model.weight.detach()) is not moved, name
            assert model.weight.grad is None
        assert len(read) == reads, name
        moments = made._optimizer.state[model.weight]
        expected = 0.5 if name == "sgd" else 0.1 * 0.5
        assert torch.allclose(moments["momentum_buffer" if name == "sgd" else "exp_avg"], torch.tensor(expected)), name
        assert name == "sgd" or moments["step"] == 1, name


def kept(process, folder, strategies):
    """Under each strategy whether the root keeps its gathered parameters after the forward, and the layers theirs."""
    from launcher.strategies import _fsdp_engine

    shard, found = _fsdp_engine.fully_shard, []
    for strategy in strategies:
        calls = []
        _fsdp_engine.fully_shard = lambda module, calls=calls, **options: (
            calls.append(options) or shard(module, **options)
        )
        strategy_steps.build(process, folder, strategy)
        *layers, root = (not options["reshard_after_forward"] for options in calls)
        found.append((root, set(layers)))
    return found


def test_fsdp_keeps_what_is_outside_of_the_layers_until_the_backward(workspace):
    folder = ranks.ready(support.write(support.mlm()))
    strategies = [{"kind": "fsdp"}, {"kind": "fsdp", "shard": "grad_op"}]
    assert ranks.on_ranks(2, kept, folder, strategies) == [[(True, {False}), (True, {True})]] * 2
