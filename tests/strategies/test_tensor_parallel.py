"""Dealing layers over ranks: rows in the right hands, roles by shapes, and no for what does not fit."""

from types import SimpleNamespace

import pytest
import support
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import ranks, strategy_steps

from launcher.config.errors import UserError
from launcher.strategies import _tensor_parallel
from launcher.strategies._tensor_parallel import FusedRowOrder

TENSOR = {"kind": "fsdp", "tensor_parallel": 2}


# Rows


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_a_share_holds_as_much_of_each_part_and_the_order_comes_back(parts, count, rows, width):
    whole = torch.arange(parts * count * rows * max(1, width)).view((parts * count * rows, width) if width else (-1,))
    dealt = FusedRowOrder(parts, count).permute(whole)
    for rank, share in enumerate(dealt.chunk(count)):
        assert torch.equal(share, torch.cat([part.chunk(count)[rank] for part in whole.chunk(parts)]))
    assert torch.equal(FusedRowOrder(count, parts).permute(dealt), whole)


def there_and_back(process, shapes):
    """Live tensors, dealt in their own order over a mesh shard x tensor as fully_shard deals them, seen in canonical
    order, wiped, and taken back."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (process.world // 2, 2), mesh_dim_names=("shard", "tensor"))
    told = []
    for parts, rows, width in shapes:
        fused, layer = FusedRowOrder(parts, 2), torch.nn.Linear(width, rows)
        torch.manual_seed(1)
        canonical = torch.randn(rows, width)
        layer.weight.data = fused.permute(canonical)
        parallelize_module(layer, mesh["tensor"], ColwiseParallel())
        fully_shard(layer, mesh=mesh["shard"])
        live = layer.weight.detach()
        seen = fused.canonical(live)
        kept = live.to_local().clone()
        live.to_local().zero_()
        fused.take(live, seen)
        told.append((torch.equal(seen.full_tensor(), canonical), torch.equal(live.to_local(), kept), int(kept.numel())))
    return told


def test_what_is_dealt_is_seen_in_canonical_order_and_taken_back_to_the_last_bit():
    """Also where the rows of a rank of the tensor axis do not divide among the shards (of three parts of 2 rows, and of
    one of 2)."""
    shapes = [(3, 24, 5), (2, 16, 3), (1, 8, 4), (3, 6, 5), (1, 2, 3), (3, 18, 1)]
    every = ranks.on_ranks(4, there_and_back, shapes)
    for told in every:
        assert [same for same, _, _ in told] == [back for _, back, _ in told] == [True] * len(shapes)
    for number, (_, rows, width) in enumerate(shapes):
        assert sum(told[number][2] for told in every) == rows * width


# Roles


def roles(*shapes, names="abcdefgh"):
    linears = {
        name: SimpleNamespace(in_features=i, out_features=o) for name, (i, o) in zip(names, shapes, strict=False)
    }
    return _tensor_parallel._roles("layer.0", linears)


FOUR, TWO = [(8, 8)] * 4, [(8, 24), (8, 8)]


@pytest.mark.parametrize(
    ("shapes", "columns", "rows"),
    [
        ([*FOUR, (8, 32), (32, 8)], {"a": 1, "b": 1, "c": 1, "e": 1}, ["d", "f"]),
        ([*FOUR, (8, 64), (32, 8)], {"a": 1, "b": 1, "c": 1, "e": 2}, ["d", "f"]),
        ([*TWO, (8, 32), (32, 8)], {"a": 3, "c": 1}, ["b", "d"]),
        ([*TWO, (8, 64), (32, 8)], {"a": 3, "c": 2}, ["b", "d"]),
        ([*FOUR, (8, 8), (8, 8)], {"a": 1, "b": 1, "c": 1, "e": 1}, ["d", "f"]),
    ],
)
def test_a_linear_map_is_known_by_its_shape_and_its_turn(shapes, columns, rows):
    assert roles(*shapes) == (columns, rows)


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        FOUR,
        [(8, 32), (32, 8)],
        [*FOUR, (8, 32)],
        [*FOUR, (8, 32), (8, 32), (32, 8)],
        [*FOUR, (8, 96), (32, 8)],
        [*FOUR, (8, 32), (32, 16)],
        [(8, 8), (8, 4), (8, 4), (8, 8), (8, 32), (32, 8)],
    ],
)
def test_another_form_is_refused_with_its_shapes(shapes):
    with pytest.raises(UserError) as told:
        roles(*shapes)
    found = ", ".join(f"{name} {i}x{o}" for name, (i, o) in zip("abcdefgh", shapes, strict=False))
    advice = "not attention and a feed-forward of two: take tensor_parallel: 1"
    assert str(told.value) == f"strategy.tensor_parallel: the linear maps of layer.0 are {found} ({advice})"


# Whole models


def told(model, strategy, world=2, **changes):
    folder = ranks.ready(support.write(support.mlm(model={"kind": "config", **support.TINY, **model}, **changes)))
    (said,) = set(ranks.on_ranks(world, strategy_steps.refusal, folder, strategy))
    return said


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_a_layer_that_is_called_again_is_no_layer_to_deal(workspace, kind):
    strategy = {"kind": kind, "tensor_parallel": 2}
    assert told({"type": "albert", "embedding_size": 8}, strategy) == (
        "strategy.tensor_parallel: no repeated layers were found in this model (take 1)"
    )


def test_another_attention_is_refused_by_its_shapes(workspace):
    """DeBERTa's, with maps of its own for positions."""
    model = {"type": "deberta-v2", "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    said = told(model, TENSOR)
    assert said.startswith("strategy.tensor_parallel: the linear maps of deberta.encoder.layer.0 are ")
    assert "pos_key_proj 16x16" in said and said.endswith("take tensor_parallel: 1)")


def test_heads_that_three_ranks_cannot_share_are_refused(workspace):
    """The plan refuses them by the number of heads; this is for architectures that do not tell it."""
    assert told({"type": "bert"}, {"kind": "fsdp", "tensor_parallel": 3}, world=3) == (
        "strategy.tensor_parallel: bert.encoder.layer.0.attention.self.query makes 16 values: 3 ranks cannot share them"
    )
