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
