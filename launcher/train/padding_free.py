"""Rows without padding: a model is made to compute sequences side by side, after a test that its outputs stay the same.

A hook gives the model its positions and the lengths of the sequences whenever the inputs have them, and lets it use the
attention of `launcher.tasks._sequence_attention`. For other inputs the model is as before.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from launcher.config.errors import Problem, UserError, first_line
from launcher.config.training import Train
from launcher.distributed.process_group import ProcessGroup
from launcher.plan.model_spec import attention_dropout
from launcher.tasks import Batch, Sample, Task, _packed_rows, _sequence_attention, _sequences, _token_batches
from launcher.train import randomness_probe
from launcher.train.data_loader import RankBatches, tensors, to
from launcher.train.precision import COMPUTED, STORED, autocast
from launcher.train.sample_randomness import ModelRandomness

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4, "tf32": 2**-5, "bf16": 2**-3, "fp16": 2**-5}
"""Maximum difference between the logits of padded rows and of a row without padding, relative to the largest logit. In
half precision the logits of a new head are mostly rounding: there, only a wrong use of a kernel is to be found."""
_LONGEST = 256
"""Tokens of the longest sample of the test."""
_POOLS = "computes one output for a row of several samples"
_ANY_WIDTH = 64
"""Width of a head for which a kernel exists if one does."""
_ENCODERS = ("encoder", "transformer", "layer", "layers")
"""Names of a base model's module that returns the last hidden state, before a pooler."""


def adapt(
    model: torch.nn.Module, task: Task, batches: RankBatches, train: Train, process: ProcessGroup
) -> tuple[RankBatches, ModelRandomness | None, list[str]]:
    """Make a model compute rows without padding if the recipe wants it and its outputs stay the same.

    Returns the batches, the draws of the model by the contract (None: it draws as before), and a note if the batches
    stay padded because of the model. Batches also stay padded if layers are compiled, which would be done again for
    other lengths, and on an accelerator without a kernel for them. Samples that share packed rows need no mask then.
    The decision is the same on all ranks. Raises UserError if the recipe requires such rows in vain.
    """
    if batches.equal_lengths or train.padding_free is False or train.compile or not task.padding_free:
        return batches, None, []
    if train.padding_free == "auto" and (slow := without_kernel(model, train.precision, process.device)):
        return batches, None, _padded_note(slow, batches)
    padded = replace(batches, row=None)
    free, hooks, randomness = replace(padded, padding_free=True), None, ModelRandomness()
    try:
        check_task(task)
        inputs = padded.probe_batches().together.batch["inputs"]
        hooks = attach(model, *examples(inputs, task, process.device), train.precision)
        randomness, reason = _draws(model, task, free, train, process)
    except Inexact as inexact:
        reason = str(inexact)
    reason = next(filter(None, process.all_gather_objects(reason)), "")
    if not reason:
        return free, randomness, []
    for name in [*randomness.modules]:
        randomness.release(name, model.get_submodule(name))
    if hooks is not None:
        hooks.remove()
    if train.padding_free is True:
        raise UserError(Problem("train.padding_free", f"{reason} (take auto)"))
    return batches, None, _padded_note(reason, batches)


def _padded_note(reason: str, batches: RankBatches) -> list[str]:
    return [f"samples of different lengths are padded: {reason}"] if batches.row is None else []


def without_kernel(model: torch.nn.Module, precision: str, device: torch.device, dropout: bool = True) -> str:
    """Return why attention would be computed length by length on an accelerator; empty: it would not. `dropout`:
    whether the model's dropout is active.

    For a micro-batch of many lengths that is some 15 kernels for each length and layer, more than a device saves by
    computing no padding. A CPU has no cost for the start of a kernel.
    """
    if device.type == "cpu":
        return ""
    if dropout and (rates := attention_dropout(getattr(model, "config", None))):
        key, rate = next(iter(rates.items()))
        return f"attention with dropout ({key} {rate:g}) has no kernel for sequences on {device.type}"
    dtype = COMPUTED.get(precision, STORED[precision])
    if _sequence_attention.fused(device.type, dtype, _ANY_WIDTH) is None:
        return f"attention has no kernel for sequences in {precision} on {device.type} here"
    return ""


def check_task(task: Task) -> None:
    """Raise Inexact if a task collates micro-batches in a way of its own, but inherits `concatenate`."""
    kinds = type(task).__mro__
    collate, concatenate = (
        next(n for n, kind in enumerate(kinds) if name in vars(kind)) for name in ("collate", "concatenate")
    )
    if collate < concatenate:
        raise Inexact(f"{kinds[collate].__module__} has a collate, but no concatenate")


def examples(inputs: Batch, task: Task, device: torch.device) -> tuple[Batch, Batch]:
    """Return two samples of different lengths as padded rows and as a row without padding. They are cut to _LONGEST
    tokens, because a head may compute a vocabulary for each token. `inputs`: of a micro-batch of two samples."""
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    short, long = sorted(mask.sum(1).clamp(max=_LONGEST).tolist())
    short = short if short < long else (short + 1) // 2
    names = [name for name in ("input_ids", "token_type_ids") if name in inputs]
    fullest = int(mask.sum(1).argmax())
    starts = (0, long - short)  # the shorter is the end of the longer
    samples: list[Sample] = [{name: inputs[name][fullest, start:long].numpy() for name in names} for start in starts]
    both = _token_batches.inputs(samples, task.facts.pad_token_id), _sequences.inputs(samples)
    padded, row = (to(tensors(batch), device) for batch in both)
    return padded, row


def _draws(
    model: torch.nn.Module, task: Task, free: RankBatches, train: Train, process: ProcessGroup
) -> tuple[ModelRandomness, str]:
    """Make the model draw by the contract. Returns its draws, and a reason if the loss or the draws of a sample in a
    row are not those of the sample alone; empty: they are."""
    training = model.training
    model.eval()
    try:
        probes = free.probe_batches().to(process.device)
        with torch.no_grad(), autocast(train.precision, process.device):
            task.loss(model, probes.together.batch)
    except Exception as error:  # a task of the user's own may raise anything
        return ModelRandomness(), f"{type(task).__module__} takes no rows without padding: {first_line(error)[:160]}"
    finally:
        model.train(training)
    randomness = randomness_probe.take_over(model, lambda batch: task.loss(model, batch)[0], probes, train.precision)
    return randomness, "; ".join(randomness.unreproducible)


class Inexact(Exception):
    """The outputs of a model in a row without padding differ from those in padded rows. The message says why."""


class PaddingFree:
    """The hooks on a model. `pooled`: the module whose output is reduced to the first token of each sequence, shape
    (sequences, 1, width); None: the head computes each token."""

    def __init__(self, model: "PreTrainedModel", pooled: torch.nn.Module | None):
        self._config, self._plain = model.config, model.config._attn_implementation
        self._first = _packed_rows.first_position(model)
        self._row: _sequence_attention.Row | None = None
        self._handles = [model.register_forward_pre_hook(self._enter, with_kwargs=True)]
        if pooled is not None:
            self._handles.append(pooled.register_forward_hook(self._take_first_tokens))

    def remove(self) -> None:
        self._config._attn_implementation = self._plain
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: "PreTrainedModel", arguments: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Prepare the model for its inputs. The choice lasts until the next forward, because a backward may compute a
        layer again."""
        given = inputs.get(_sequences.KEY)
        self._row = None if given is None else _sequence_attention.Row(given["lengths"], given["offsets"])
        self._config._attn_implementation = self._plain if given is None else _sequence_attention.NAME
        if given is None:
            return arguments, inputs
        positions = _packed_rows.positions_of(inputs["input_ids"], inputs["position_ids"], self._first)
        return arguments, {**inputs, "position_ids": positions, _sequences.KEY: self._row}

    def _take_first_tokens(self, module: torch.nn.Module, arguments: object, output: Any) -> object:
        if self._row is None:
            return output
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        first = hidden[0].index_select(0, self._row.offsets[:-1]).unsqueeze(1)
        if isinstance(output, torch.Tensor):
            return first
        if isinstance(output, tuple):
            return (first, *output[1:])
        output[next(iter(output.keys()))] = first
        return output


def attach(model: torch.nn.Module, padded: Batch, row: Batch, precision: str) -> PaddingFree:
    """Attach the hooks to a model and return them. Raises Inexact, and attaches nothing, if no way of doing so keeps
    its outputs.

    `padded`, `row`: micro-batches of the same samples, on the model's device.
    """
    from transformers import PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise Inexact(f"{name} is no model of transformers")
    if model.config._attn_implementation not in ("eager", "sdpa"):
        raise Inexact(f"{name} uses the attention {model.config._attn_implementation}")
    _sequence_attention.register()
    training = model.training
    model.eval()
    try:
        return _first_exact(model, padded, row, precision)
    finally:
        model.train(training)


def _first_exact(model: "PreTrainedModel", padded: Batch, row: Batch, precision: str) -> PaddingFree:
    reason = ""
    for pooled in _places(model):
        hooks = PaddingFree(model, pooled)
        found = _difference(model, padded, row, precision)
        if not found:
            return hooks
        hooks.remove()
        reason = found if reason in ("", _POOLS) else reason
    raise Inexact(f"{type(model).__name__} {reason}")


def _places(model: "PreTrainedModel") -> Iterator[torch.nn.Module | None]:
    """Yield the modules whose output may be reduced to first tokens, so that the head works: none, an encoder inside
    the base model, the base model."""
    yield None
    base = model.base_model
    yield from (child for name, child in base.named_children() if name in _ENCODERS)
    if base is not model:
        yield base


@torch.no_grad()  # type: ignore[untyped-decorator]
def _difference(model: "PreTrainedModel", padded: Batch, row: Batch, precision: str) -> str:
    """Return how the outputs for a row differ from those for padded rows; empty: not beyond rounding. The test runs in
    the precision of the parameters, and also in half precision on a device that has other kernels for it."""
    device = padded["inputs"]["input_ids"].device
    full = "fp64" if next(model.parameters()).dtype == torch.float64 else "fp32"
    full = "tf32" if precision == "tf32" and device.type == "cuda" else full
    for kind in (full, precision) if precision in COMPUTED and device.type == "cuda" else (full,):
        try:
            with autocast(kind, device):
                expected = _logits(model, padded)
                found = [_in_shape(one, like, row) for one, like in zip(_logits(model, row), expected, strict=True)]
        except Exception as error:  # a model without support for sequences in a row may raise anything
            return f"takes no rows without padding: {first_line(error)[:160]}"
        mask = padded["inputs"].get("attention_mask")
        for one, like in zip(found, expected, strict=True):
            if one.shape != like.shape:
                return _POOLS
            kept = mask.bool() if mask is not None and like.shape[:2] == mask.shape else ...
            off = float((one[kept] - like[kept]).abs().max() / like[kept].abs().max())
            if not off <= TOLERANCE[kind]:
                return f"has other logits in a row without padding ({off:.1g} off in {kind})"
    return ""


def _logits(model: "PreTrainedModel", batch: Batch) -> list[torch.Tensor]:
    return [
        value.float() if value.dtype.itemsize < 4 else value
        for name, value in model(**batch["inputs"]).items()
        if name.endswith("logits")
    ]


def _in_shape(found: torch.Tensor, like: torch.Tensor, row: Batch) -> torch.Tensor:
    """Return outputs for the tokens of a row in the shape of padded rows; others unchanged."""
    tokens = row["inputs"]["input_ids"].shape
    return _sequences.padded(found, row) if found.shape[:2] == tokens and found.shape != like.shape else found
