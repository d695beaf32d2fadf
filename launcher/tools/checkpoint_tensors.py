"""The model's tensors in a checkpoint, read a few at a time and written as safetensors shards.

So memory never exceeds one shard of the export. torch's own reader maps all files of a checkpoint until it has
finished, and each page that it has touched counts as memory. Here a file is closed again after `_PIECE` bytes.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from launcher.config.errors import UserError
from launcher.storage.checkpoint_format import SavedCheckpoint

if TYPE_CHECKING:
    import torch
    from torch.distributed.checkpoint.metadata import Metadata

    Tensors = dict[str, torch.Tensor]

_PIECE = 1 << 22
"""Number of bytes to read from a file before it is closed again."""
_PREFIX = "model."
"""Prefix of the names of the model's tensors in a checkpoint."""


class TensorSource(ABC):
    """The tensors of a model by name. `empty`: a meta tensor of the same shape and type for each name."""

    empty: "Tensors"

    @abstractmethod
    def read(self, names: Sequence[str]) -> "Tensors":
        """Return these tensors, on the CPU."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.empty.values())

    @property
    def dtype(self) -> "torch.dtype":
        """The smallest floating-point type that can represent all weights."""
        import torch

        return reduce(torch.promote_types, (t.dtype for t in self.empty.values() if t.is_floating_point()))

    def check_names(self, model: "torch.nn.Module", saved: SavedCheckpoint) -> None:
        """Raise UserError if from_pretrained would leave weights of the model new, or weights of the checkpoint unused.
        Buffers may differ, because it depends on the version of transformers which ones are saved."""
        here = {name: parameter.shape for name, parameter in model.named_parameters()}
        there = {name: tensor.shape for name, tensor in self.empty.items()}
        buffers = dict(model.named_buffers()).keys()
        names = [name for name in {**here, **there} if here.get(name) != there.get(name) and name not in buffers]
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(f"{saved.path}: its weights are not those of {type(model).__name__}: {some}")


class _Slice(NamedTuple):
    """Rows of a stored tensor. `into`: the view of the result to which they are copied."""

    file: str
    key: str
    rows: tuple[slice, ...]
    into: "torch.Tensor"


class StoredTensors(TensorSource):
    """The tensors of a checkpoint. They stay on disk until they are read."""

    def __init__(self, saved: SavedCheckpoint):
        import torch
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        self._metadata: Metadata = HuggingFaceStorageReader(str(saved.path)).read_metadata()
        self.empty = {
            key.removeprefix(_PREFIX): torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for key, entry in self._metadata.state_dict_metadata.items()
            if key.startswith(_PREFIX)
        }

    def read(self, names: Sequence[str]) -> "Tensors":
        """Return these tensors, assembled from the shards of all ranks."""
        import torch
        from safetensors import safe_open

        tensors = {name: torch.empty_like(self.empty[name], device="cpu") for name in names}
        slices = [part for name, tensor in tensors.items() for part in self._slices(_PREFIX + name, tensor)]
        for file, group in groupby(sorted(slices, key=lambda part: part.file), key=lambda part: part.file):
            left = list(group)[::-1]
            while left:
                size = 0
                with safe_open(file, framework="pt") as opened:
                    while left and size < _PIECE:
                        part = left.pop()
                        part.into.copy_(opened.get_slice(part.key)[part.rows])
                        size += part.into.nbytes
        return tensors

    def _slices(self, key: str, tensor: "torch.Tensor") -> Iterator[_Slice]:
        """Yield the pieces of a tensor. A piece has at most `_PIECE` bytes, unless a single row is larger."""
        from torch.distributed.checkpoint.metadata import MetadataIndex

        for chunk in self._metadata.state_dict_metadata[key].chunks:
            file = self._metadata.storage_data[MetadataIndex(key, chunk.offsets)].relative_path
            into = tensor[tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))]
            if not chunk.sizes:
                yield _Slice(file, key, (), into)
                continue
            step = max(1, _PIECE * len(into) // max(1, into.nbytes))
            for first in range(0, len(into), step):
                yield _Slice(file, key, (slice(first, first + step),), into[first : first + step])


class InMemoryTensors(TensorSource):
    """The tensors of a model in memory, such as a model with a merged adapter."""

    def __init__(self, model: "torch.nn.Module"):
        saved = model.state_dict().keys()
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
        tensors = dict(model.named_parameters()) | buffers
        self._tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        self.empty = {name: tensor.to("meta") for name, tensor in self._tensors.items()}

    def read(self, names: Sequence[str]) -> "Tensors":
        return {name: self._tensors[name] for name in names}


def write_shards(tensors: TensorSource, folder: Path, shard_bytes: int, console: Console) -> None:
    """Write the safetensors files that from_pretrained reads, and an index if there are several."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    split = split_torch_state_dict_into_shards(tensors.empty, max_shard_size=shard_bytes)
    columns = ("export", BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=split.metadata["total_size"])
        for name, names in split.filename_to_tensors.items():
            shard = tensors.read(names)
            save_file(shard, folder / name, metadata={"format": "pt"})
            progress.advance(task, sum(tensor.nbytes for tensor in shard.values()))
            del shard  # free this shard before the next one is read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
