"""A checkpoint of a run as a folder that plain transformers loads: weights, configuration, tokenizer, model card.

Weights are read and written one shard of the export at a time, so that this is all the memory it takes. torch's own
reader maps the files of a checkpoint until it is done, and a page that was touched counts like a tensor: here no file
stays open for longer than a piece of it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from launcher.config import load, plugins, strict_json
from launcher.config.atomic_files import flush_tree
from launcher.config.errors import UserError
from launcher.config.format import human, plural
from launcher.config.recipe import Recipe
from launcher.models import _transformers
from launcher.plan import model_requirements, remote_code
from launcher.plan.facts import of_run
from launcher.storage import disk_full
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.tools import model_card
from launcher.tools.export_inputs import add_inputs

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

_PIECE = 1 << 22
"""Bytes that are read from a file before it is closed again."""
_UNITS = {"": 1, "b": 1, **{f"{letter}b": 1000**n for n, letter in enumerate("kmgt", start=1)}}
_UNITS |= {f"{letter}ib": 1024**n for n, letter in enumerate("kmgt", start=1)}


def export(run: str, which: str | int, to: Path | None, shard_size: str, console: Console) -> str:
    """Export a checkpoint; the folder appears whole or not at all. Returns the line that says what was made. Raises
    UserError, with nothing touched, for what cannot be exported or is in the way."""
    folder, to, limit = RunDir(Path(run)), to or Path(run) / "export", size_of(shard_size)
    final = place(to)
    _check(folder)
    saved = folder.saved(which)
    saved.verify()
    recipe = load.stored(folder.recipe).value
    auto = plugins.task(recipe.inner_task).auto_class
    trusted = bool(getattr(recipe.model, "trust_remote_code", False))
    model = _model(folder, recipe)
    adapter = getattr(recipe.model, "adapter", None)
    weights = _Merged.of(folder, recipe, adapter, saved) if adapter else _Weights.of(saved)
    _check_names(model, weights.empty, saved)
    _check_space(weights, final, to)
    with aside_of(final, to) as aside:
        add_inputs(folder, recipe, model, aside)
        model.config.architectures, model.config.dtype = [type(model).__name__], _dtype(weights.empty)
        _transformers.save_configuration(model, aside)
        if trusted:
            remote_code.copy_code(folder.model, aside)
        text = model_card.text(folder, saved, recipe, model, auto)
        (aside / "README.md").write_text(text, encoding="utf-8")
        _write(weights, aside, limit, console)
        sizes = [file.stat().st_size for file in aside.iterdir()]
    return f"{to}: {plural(len(sizes), 'file')}, {human(sum(sizes))}, checkpoint of step {saved.step}"


def place(to: Path) -> Path:
    """Where a folder will be. Raises UserError where something is there."""
    final = to.resolve()
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise UserError(f"{to}: is there already, and not empty (name another folder: --to)")
    return final


def size_of(text: str) -> int:
    """A size such as 1GiB, 500MB or 1000000, in bytes. Raises UserError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.lower())
    size = int(float(found[1]) * _UNITS.get(found[2], 0)) if found else 0
    if size < 1:
        raise UserError(f"--shard-size: {text}: not a size (such as 1GiB or 500MB)")
    return size


def _check(folder: RunDir) -> None:
    if folder.recipe.is_file() and folder.facts.is_file() and not folder.model.is_dir():
        _refuse(folder)
    for needed in (folder.recipe, folder.facts, folder.model / "config.json"):
        if not needed.exists():
            raise UserError(f"{folder.path}: no run of a transformers model is there (it has no {needed.name})")
    of_run(folder.path)
    model_card.environment(folder)
    check_norms(folder)


def check_norms(folder: RunDir) -> None:
    """Raises UserError for a transformers model whose batch norms became groups."""
    config = strict_json.read_object(folder.model / "config.json", "launcher run writes it again")
    if config.get("batch_norm") == "group":
        what = "its model has groups in place of its batch norms (batch_norm: group)"
        raise UserError(f"{folder.path}: {what}, which plain transformers does not know (take --format onnx)")


def _refuse(folder: RunDir) -> None:
    """Raises UserError where the run was of a model that transformers does not know."""
    model = load.stored(folder.recipe).value.model
    said = next((f" {value}" for key in ("type", "factory", "run") if (value := getattr(model, key, None))), "")
    if folder.whole():
        what = f"its model is no transformers model ({model.kind}{said}), which alone can be a folder for it"
        raise UserError(f"{folder.path}: {what} (take --format onnx)")


@dataclass(frozen=True)
class _Part:
    """Some rows of a tensor: the file of a checkpoint that has them, where in it, and where they go."""

    file: str
    key: str
    rows: tuple[slice, ...]
    into: "torch.Tensor"


@dataclass(frozen=True)
class _Weights:
    """The model's tensors in a checkpoint: `empty` ones by their name in the model, without memory."""

    metadata: Any
    empty: "Tensors"

    @classmethod
    def of(cls, saved: SavedCheckpoint) -> "_Weights":
        import torch
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        metadata = HuggingFaceStorageReader(str(saved.path)).read_metadata()
        empty = {
            key.removeprefix("model."): torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for key, entry in metadata.state_dict_metadata.items()
            if key.startswith("model.")
        }
        return cls(metadata, empty)

    def read(self, names: list[str]) -> "Tensors":
        """These tensors, put together from the shares of the ranks."""
        import torch
        from safetensors import safe_open

        tensors = {name: torch.empty_like(self.empty[name], device="cpu") for name in names}
        parts = [part for name, tensor in tensors.items() for part in self._parts(f"model.{name}", tensor)]
        for file, group in groupby(sorted(parts, key=lambda part: part.file), key=lambda part: part.file):
            left = list(group)[::-1]
            while left:
                held = 0
                with safe_open(file, framework="pt") as opened:
                    while left and held < _PIECE:
                        part = left.pop()
                        part.into.copy_(opened.get_slice(part.key)[part.rows])
                        held += part.into.nbytes
        return tensors

    def _parts(self, key: str, tensor: "torch.Tensor") -> Iterator[_Part]:
        from torch.distributed.checkpoint.metadata import MetadataIndex

        for chunk in self.metadata.state_dict_metadata[key].chunks:
            file = self.metadata.storage_data[MetadataIndex(key, chunk.offsets)].relative_path
            into = tensor[tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))]
            if not chunk.sizes:
                yield _Part(file, key, (), into)
                continue
            step = max(1, _PIECE * len(into) // max(1, into.nbytes))
            for first in range(0, len(into), step):
                yield _Part(file, key, (slice(first, first + step),), into[first : first + step])


@dataclass(frozen=True)
class _Merged:
    """The same of an adapted model: its own tensors, with the adapter in them."""

    tensors: "Tensors"

    @classmethod
    def of(cls, folder: RunDir, recipe: Recipe, adapter: Any, saved: SavedCheckpoint) -> "_Merged":
        from launcher.models import _peft
        from launcher.train import checkpoint

        model = _model(folder, recipe, "cpu")
        _peft.inject(model, adapter)
        _check_names(model, _Weights.of(saved).empty, saved)
        checkpoint.load_weights(model, saved)
        _peft.merge(model)
        kept = model.state_dict()
        buffers = {name: tensor for name, tensor in model.named_buffers() if name in kept}
        return cls(
            {name: tensor.detach().contiguous() for name, tensor in (dict(model.named_parameters()) | buffers).items()}
        )

    @property
    def empty(self) -> "Tensors":
        return {name: tensor.to("meta") for name, tensor in self.tensors.items()}

    def read(self, names: list[str]) -> "Tensors":
        return {name: self.tensors[name] for name in names}


def _dtype(tensors: "Tensors") -> "torch.dtype":
    """That of the floating-point weights; of several, the one that holds them all."""
    import torch

    return reduce(torch.promote_types, (t.dtype for t in tensors.values() if t.is_floating_point()))


def _model(folder: RunDir, recipe: Recipe, device: str = "meta") -> "torch.nn.Module":
    """The model that the task's auto class makes, with all that the run knows of it in its configurations; on the meta
    device without memory for its weights. Raises UserError where code would have to be run that is not trusted."""
    import torch
    import transformers

    wanted, trusted = (
        model_requirements.of(recipe, of_run(folder.path)),
        bool(getattr(recipe.model, "trust_remote_code", False)),
    )
    with torch.device(device), remote_code.refused(folder.model, "config.json", "model", "model"):
        config = transformers.AutoConfig.from_pretrained(folder.model, trust_remote_code=trusted)
        if not trusted:
            remote_code.refuse_kernels(folder.model, "model")
        config.problem_type = wanted.options.get("problem_type")  # as in the runs of older versions it is not
        if recipe.model.kind == "config":
            _transformers.set_token_ids(config, wanted, given=recipe.model.model_extra or {})
        model = getattr(transformers, wanted.auto_class).from_config(config, trust_remote_code=trusted)
    _transformers.take_generation(model, folder.model, wanted)
    return _transformers.complete(model, wanted)


def _check_names(model: "torch.nn.Module", tensors: "Tensors", saved: SavedCheckpoint) -> None:
    """Raises UserError where from_pretrained would leave weights new, or the checkpoint's unused. A buffer may be in
    one alone: which ones are kept changes with transformers' version."""
    here = {name: p.shape for name, p in model.named_parameters()}
    there = {name: t.shape for name, t in tensors.items()}
    buffers = dict(model.named_buffers()).keys()
    names = [name for name in {**here, **there} if here.get(name) != there.get(name) and name not in buffers]
    if names:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise UserError(f"{saved.path}: its weights are not those of {type(model).__name__}: {some}")


def _check_space(weights: _Weights | _Merged, final: Path, to: Path) -> None:
    size = sum(t.nbytes for t in weights.empty.values())
    free = shutil.disk_usage(next(parent for parent in final.parents if parent.exists())).free
    if size > free:
        raise UserError(f"{to}: {human(size)} to write, {human(free)} free on its disk (name another folder: --to)")


@contextmanager
def aside_of(final: Path, to: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends without error."""
    aside = final.with_name(f".{final.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # left by one that was killed
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{to}: cannot be made: {error.strerror}: {error.filename}") from None
    try:
        with disk_full.reported(aside, advice="make room there, or name another folder: --to", kind=UserError):
            yield aside
            flush_tree(aside)
        try:
            aside.rename(final)
        except OSError as error:
            raise UserError(f"{to}: cannot be made: {error.strerror} (name another folder: --to)") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(weights: _Weights | _Merged, aside: Path, limit: int, console: Console) -> None:
    """The shards, and the index where there are several."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    split = split_torch_state_dict_into_shards(weights.empty, max_shard_size=limit)
    columns = ("export", BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        told = progress.add_task("", total=split.metadata["total_size"])
        for name, names in split.filename_to_tensors.items():
            tensors = weights.read(names)
            save_file(tensors, aside / name, metadata={"format": "pt"})
            shutil.copymode(aside / "config.json", aside / name)  # safetensors lets the owner alone read
            progress.advance(told, sum(t.nbytes for t in tensors.values()))
            del tensors  # before the next ones are made
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (aside / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
