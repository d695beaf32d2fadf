"""What the plan predicts that ranks exchange in a step, beside what they pass to gloo."""

from collections import Counter

import pytest
import support
from support import ranks, strategy_steps

from launcher.config import kinds
from launcher.plan.collectives import RankStep
from launcher.plan.model_spec import Architecture

LAYOUTS = {
    2: [
        {"kind": "ddp"}, {"kind": "fsdp"}, {"kind": "fsdp", "shard": "grad_op"}, {"kind": "ddp", "tensor_parallel": 2},
        *({"kind": "deepspeed", "zero": stage} for stage in range(4)),
    ],
    4: [
        {"kind": "fsdp", "shard": "hybrid", "replicas": 2}, {"kind": "fsdp", "tensor_parallel": 2},
        {"kind": "ddp", "tensor_parallel": 2},
    ],
}  # fmt: skip


def exchanged(process, folder, strategies):
    """Of each strategy: counted bytes by operation, micro-batches of the step, and positions of each."""
    import time

    from benchmarks._collectives import CollectiveCounter
    from launcher.train import loop, step_sync

    found = []
    for strategy in strategies:
        run = strategy_steps.build(process, folder, strategy)
        strategy_steps.take(run, 2)  # DDP orders its buckets and DeepSpeed traces the model
        batch = run.batches.dataset[2]
        with CollectiveCounter() as counter:
            loop.step(run, batch, step_sync.sync_step_info(process, batch), time.perf_counter())
        positions = [int(micro["inputs"]["input_ids"].numel()) for micro in batch.micro_batches]
        found.append(({name: count.size for name, count in counter.counts.items()}, positions))
    return found


def predicted(strategy, world, shape, positions):
    config = kinds.module("strategies", strategy["kind"]).Config.model_validate(strategy)
    step = RankStep(world, len(positions), sum(positions) / len(positions))
    sizes = Counter()
    for one in kinds.module("strategies", strategy["kind"]).Strategy(config).collectives(shape, step):
        sizes[one.operation] += one.size
    return {operation: size for operation, size in sizes.items() if size}


@pytest.fixture(scope="module")
def shape():
    """The sizes of `support.mlm`'s BERT."""
    return Architecture(
        name="BERT", parameters=15048, trained=15048, buffers=0, in_layers=4448, largest_layer=2224, hidden=16,
        layers=2, heads=2,
    )  # fmt: skip


@pytest.mark.parametrize("world", LAYOUTS)
def test_the_bytes_are_those_that_ranks_exchange(workspace, world, shape):
    """Real ranks over gloo, some 15 s: that the docs' formula holds for each strategy is proved here alone."""
    folder = workspace / ranks.ready(support.write(support.mlm()))
    for rank in ranks.on_ranks(world, exchanged, folder, LAYOUTS[world]):
        for strategy, (counted, positions) in zip(LAYOUTS[world], rank, strict=True):
            assert counted == predicted(strategy, world, shape, positions), strategy
