"""Tensor parallelism (Shoeybi et al., 2019) of encoder layers with DTensor.

Heads and feed-forward units are sharded over a mesh axis. All-reduces after the attention and after the feed-forward
add up the results. A layer is recognised not by names, but by the order and the shapes of the linear modules that ran
in it. These are queries, keys and values (three modules or a fused one), the attention's output, and two modules of the
feed-forward (the first one may be fused with its gate). When a run starts, the parallel model is compared with the
whole model on a sample.
"""

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from launcher.config.errors import Problem, UserError
from launcher.strategies import EngineParts


@dataclass(frozen=True)
class FusedRowOrder:
    """A linear module with several outputs in one matrix, such as queries, keys and values.

    Its rows are stored in the order (rank, part, row), so that a rank's equal share of each part is one contiguous
    shard. The canonical order is (part, rank, row).
    """

    parts: int
    ranks: int

    def permute(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (self.parts, self.ranks, -1)).transpose(0, 1).flatten(0, 2)

    def canonical(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in canonical order, with rows sharded over the tensor axis and columns over the shard axis.
        Scalars (an optimiser's step) are returned unchanged."""
        if not isinstance(tensor, DTensor):
            return tensor
        rows = tensor.full_tensor().unflatten(0, (self.ranks, self.parts, -1)).transpose(0, 1).flatten(0, 2)
        columns = Shard(1) if tensor.ndim > 1 else Replicate()
        axes: dict[str, object] = {"tensor": Shard(0), "shard": columns, "replica": Replicate()}
        placements = [axes[name] for name in tensor.device_mesh.mesh_dim_names or ()]
        return distribute_tensor(rows.contiguous(), tensor.device_mesh, placements, src_data_rank=None)

    def take(self, live: torch.Tensor, loaded: torch.Tensor) -> None:
        """Write a tensor in canonical order, which was loaded, into the tensor of the model."""
        if not isinstance(live, DTensor) or not isinstance(loaded, DTensor):
            return
        mesh, rows = live.device_mesh, self.permute(loaded.full_tensor())
        place = dict(zip(mesh.mesh_dim_names or (), mesh.get_coordinate() or (), strict=True))
        mine = rows.chunk(self.ranks)[place["tensor"]]
        pieces = mine.chunk(mesh["shard"].size()) if "shard" in place else (mine,)
        held = live.to_local()
        if held.numel():
            held.copy_(pieces[place.get("shard", 0)])


def parallelise(unwrapped: EngineParts, mesh: DeviceMesh) -> dict[str, FusedRowOrder]:
    """Shard the heads and units of each layer over a mesh of one axis. Returns the permuted parameters by name. Raises
    UserError for layers of another form."""
    fused, ranks = dict[str, FusedRowOrder](), mesh.size()
    for name, layer in unwrapped.probe.layers.items():
        linears = {n: layer.get_submodule(n) for n in unwrapped.probe.linears[name]}
        columns, rows = _roles(name, linears)
        for inner, parts in columns.items():
            if linears[inner].out_features % (parts * ranks):
                what = f"{name}.{inner} makes {linears[inner].out_features} values: {ranks} ranks cannot share them"
                raise UserError(Problem("strategy.tensor_parallel", what))
            if parts > 1:
                for kind, parameter in linears[inner].named_parameters():
                    fused[f"{name}.{inner}.{kind}"] = FusedRowOrder(parts, ranks)
                    parameter.data = FusedRowOrder(parts, ranks).permute(parameter.data).contiguous()
        plan: dict[str, object] = {n: ColwiseParallel() for n in columns} | {n: RowwiseParallel() for n in rows}
        parallelize_module(layer, mesh, plan)
    if not unwrapped.probe.layers:
        raise UserError(Problem("strategy.tensor_parallel", "no repeated layers were found in this model (take 1)"))
    return fused


def _roles(layer: str, linears: dict[str, torch.nn.Module]) -> tuple[dict[str, int], list[str]]:
    """Return the modules to shard by output, with the number of outputs in each, and the modules to shard by input.
    Raises UserError for a layer of another form."""
    names, shapes = list(linears), [(m.in_features, m.out_features) for m in linears.values()]
    wide = shapes[0][0] if shapes else 0
    attention = 4 if shapes[:4] == [(wide, wide)] * 4 else 2 if shapes[:2] == [(wide, 3 * wide), (wide, wide)] else 0
    ahead = shapes[attention:]
    if attention and len(ahead) == 2 and ahead[0][0] == wide == ahead[1][1] and ahead[0][1] % ahead[1][0] == 0:
        parts = ahead[0][1] // ahead[1][0]
        if parts in (1, 2):
            first = dict.fromkeys(names[: attention - 1], 3 if attention == 2 else 1)
            return {**first, names[attention]: parts}, [names[attention - 1], names[attention + 1]]
    what = (
        f"the linear maps of {layer} are {', '.join(f'{n} {i}x{o}' for n, (i, o) in zip(names, shapes, strict=True))}"
    )
    advice = "not attention and a feed-forward of two: take tensor_parallel: 1"
    raise UserError(Problem("strategy.tensor_parallel", f"{what} ({advice})"))
