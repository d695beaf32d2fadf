"""Training steps on fake tensors, which have no values: what the host would read of a device."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from support import strategy_steps


def reads_of(process: Any, folder: Path, strategy: dict[str, Any], world: int) -> dict[str, list[str]]:
    """What the host reads in the second step under a strategy, and then of its results.

    An index by a mask, a branch on a value, and what needs the size of a result raise at once.
    """
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from launcher.train import loop, model_probe
    from launcher.train.step_sync import sync_step_info

    run = strategy_steps.build(process, folder, {"kind": "single"})
    steps = run.batches.dataset
    batches, probe = (
        [steps[0], steps[1]],
        model_probe.run(run.engine.unwrapped, run.task, steps.probe_batches().one.batch),
    )
    infos = [sync_step_info(process, batch) for batch in batches]
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    mode, values = FakeTensorMode(allow_non_fake_inputs=True), _values_read()
    try:
        with mode, _as_on_a_device():
            _make_fake([run.engine.unwrapped, *run.task.frozen_models()], mode)
            run = _under(run, replace(process, world=world), probe, strategy)
            batches = [_fake_batch(batch, mode) for batch in batches]
            loop.begin_step(run, batches[0], infos[0], 0.0)
            with values as inside:
                begun = loop.begin_step(run, batches[1], infos[1], 0.0)
            with values as after, contextlib.suppress(DataDependentOutputException):
                begun.gradient.results()
    finally:
        dist.destroy_process_group()
    return {"inside": inside, "results": after}


@contextlib.contextmanager
def _as_on_a_device() -> Any:
    """transformers leaves out what it reads of fake tensors; and a mesh is made of real ones."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from transformers.utils import import_utils

    from launcher.strategies import _fsdp_engine

    made = _fsdp_engine.init_device_mesh

    def mesh(*given: Any, **more: Any) -> Any:
        with unset_fake_temporarily():
            return made(*given, **more)

    with (
        patch.object(import_utils, "is_fake_tensor", lambda tensor: False),
        patch.object(_fsdp_engine, "init_device_mesh", mesh),
        patch("torch.nn.parallel.DistributedDataParallel", _without_reducer()),
    ):
        yield


def _without_reducer() -> type:
    """DistributedDataParallel without its reducer, which is C++ and takes real tensors."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self, module: Any, **options: Any) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: Any, **more: Any) -> Any:
            return self.module(*given, **more)

        def no_sync(self) -> Any:
            return contextlib.nullcontext()

    return Module


def _make_fake(models: list[Any], mode: Any) -> None:
    for module in (module for model in models for module in model.modules()):
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                held[name] = None if tensor is None else mode.from_tensor(tensor)


def _under(run: Any, process: Any, probe: Any, strategy: dict[str, Any]) -> Any:
    """The run under a strategy."""
    from launcher.config import kinds, plugins
    from launcher.strategies import EngineParts

    chosen = kinds.module("strategies", strategy["kind"]).Config.model_validate(strategy)
    recipe = run.recipe.model_copy(update={"strategy": chosen})
    parts = EngineParts(
        run.engine.unwrapped, probe, plugins.optimizer(recipe.optimizer), recipe.train.precision, process
    )
    return replace(run, recipe=recipe, process=process, engine=plugins.strategy(chosen).wrap(parts))


def _fake_batch(batch: Any, mode: Any) -> Any:
    import torch

    from launcher.train.sample_rows import SampleRows

    def fake(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fake(one) for name, one in value.items()}
        return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

    rows = [SampleRows(*map(fake, (one.keys, one.step, one.positions, one.sequences))) for one in batch.rows]
    return replace(batch, micro_batches=[fake(one) for one in batch.micro_batches], rows=rows)


def _values_read() -> Any:
    """Contexts that list the calls inside them by which values come to the host, or constants leave it."""
    import torch
    from torch.overrides import TorchFunctionMode

    methods = ("cpu", "numpy", "item", "tolist", "__bool__", "__float__", "__int__", "nonzero")
    watched = {getattr(torch.Tensor, name): name for name in methods}
    watched |= {getattr(torch, name): name for name in ("tensor", "as_tensor", "from_numpy", "equal")}

    class Reads(TorchFunctionMode):
        def __enter__(self) -> list[str]:
            self.names = list[str]()
            super().__enter__()
            return self.names

        def __torch_function__(self, function: Any, types: Any, given: Any = (), more: Any = None) -> Any:
            if function in watched:
                self.names.append(watched[function])
            return function(*given, **(more or {}))

    return Reads()
