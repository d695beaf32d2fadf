"""Tests of a model's abilities on a small copy of the model, on the CPU.

The tests import torch. Planning therefore runs them in a child process (see `_model_spec_process`).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from launcher.config.errors import Problem, UserError, first_line
from launcher.config.types import JsonObject
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.padding_probe import Padding, probe

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from launcher.tasks import Task

_LAYERS, _HEADS, _WIDTH, _VOCABULARY = 2, 2, 16, 256
_LONGEST = 4096
"""Maximum number of tokens of a tested row, whatever the attention window."""
_PARAMETERS = 50_000_000
"""Maximum number of parameters of a copy."""
_ANYWHERE = ("eager", "sdpa")
"""Implementations of attention that every machine has."""


def packs(model: "PreTrainedModel", requirements: ModelRequirements, task: "type[Task]") -> str | None:
    """Return why a model cannot take packed rows, tested on a copy; empty: it can; None: no copy could be tested.

    `model`: on the meta device.
    """
    import torch

    torch.manual_seed(0)
    for config in _smaller(getattr(model, "config", None)):
        try:
            small = _built(config, requirements.auto_class, model.config._attn_implementation)
            if small is None:
                continue
            documents = _documents(lengths(requirements.max_length, _window(config)), config)
            if not small(input_ids=documents[0][None]).logits.isfinite().all():
                continue
            return task.packing_error(small, documents, config.pad_token_id or 0) or ""
        except Exception:  # an architecture may not allow the smaller values
            continue
    return None


def padding(model: "PreTrainedModel", requirements: ModelRequirements) -> Padding | None:
    """Return the side on which rows of a model may be padded; None: no copy could be tested.

    The copy runs a sample of maximum length. `model`: may be on the meta device, and is not run. Random generators of
    this process do not change. Raises UserError if the model does not take samples of that length or of this task.
    """
    import torch

    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed also seeds all devices
        return _padding(model, requirements)


def _padding(model: "PreTrainedModel", requirements: ModelRequirements) -> Padding | None:
    config, problem = getattr(model, "config", None), None
    attention = getattr(config, "_attn_implementation", None)
    for smaller in _smaller(config) if requirements.vocab_size else ():
        problem = None
        try:
            small = _built(smaller, requirements.auto_class, attention if attention in _ANYWHERE else _ANYWHERE[0])
        except Exception:  # an architecture may not allow the smaller values
            continue
        if small is None:
            continue
        sample = _sample(small, config, requirements)
        problem = _unfit(small, sample, requirements)
        if problem is None:
            return probe(small, sample, getattr(smaller, "pad_token_id", None) or 0, requirements.max_length)
        if problem.key != "model":
            break
    shaped = (
        requirements.guessed or requirements.auto_class == "AutoModelForQuestionAnswering"
    )  # the sample here lacks the tokens between its parts
    if problem is not None and (problem.key != "model" or not shaped):
        raise UserError(problem)
    return None


def _sample(
    small: "PreTrainedModel", config: "PretrainedConfig", requirements: ModelRequirements
) -> "dict[str, torch.Tensor]":
    """Return a sample of maximum length; if the data has an end token, it is the last one."""
    import torch

    pad, last = (getattr(small.config, name, None) for name in ("pad_token_id", "eos_token_id"))
    plain = torch.tensor([token for token in range(small.config.vocab_size) if token not in (pad, last)])
    ids = plain[torch.randint(0, len(plain), (1, min(requirements.max_length, _LONGEST)))]
    if isinstance(last, int) and (
        requirements.guessed or getattr(config, "eos_token_id", None) == requirements.end_token_id
    ):
        ids[:, -1] = last
    if requirements.auto_class != "AutoModelForSeq2SeqLM":
        return {"input_ids": ids}
    return {"input_ids": ids, "decoder_input_ids": _resized(ids, requirements.target_length or requirements.max_length)}


def _resized(ids: "torch.Tensor", length: int) -> "torch.Tensor":
    """Return the tokens of a row, repeated or cut to `length`, with the last one at the end. Shape (1, length)."""
    resized = ids.repeat(1, -(-length // ids.shape[1]))[:, : min(length, _LONGEST)].clone()
    resized[:, -1] = ids[:, -1]
    return resized


def _unfit(
    small: "PreTrainedModel", sample: "dict[str, torch.Tensor]", requirements: ModelRequirements
) -> Problem | None:
    """Return why a model does not take a sample; None: it does."""
    import torch

    name, length = type(small).__name__, sample["input_ids"].shape[1]
    try:
        with torch.no_grad(), _positions_counted():
            small(**sample)
    except _PositionsEnd as end:
        target = requirements.target_length and end.length == sample["decoder_input_ids"].shape[1] != length
        key, limit = (
            ("task.max_target_length", requirements.target_length)
            if target
            else ("data.max_length", requirements.max_length)
        )
        what = f"{limit} tokens, but {name} has positions for {end.usable}"
        return Problem(key, f"{what} (shorter samples, or a model with more positions)")
    except Exception as error:
        first = first_line(error)[:200]
        return Problem("model", f"{name} cannot compute a sample of {length} tokens: {first}")
    return None


class _PositionsEnd(Exception):
    """Error: a table of positions is too short. `usable`: positions of the table; `length`: tokens of the row."""

    def __init__(self, usable: int, length: int):
        super().__init__(usable, length)
        self.usable, self.length = usable, length


def _positions_counted() -> AbstractContextManager[object]:
    """Return a context in which an embedding lookup beyond the table raises _PositionsEnd.

    Such a lookup is one of positions, which count from 0 or, as in RoBERTa and BART, from a larger number.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Counted(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: JsonObject | None = None,
        ) -> object:
            if func is torch.nn.functional.embedding and len(args) > 1:
                last, rows = int(args[0].max()), args[1].shape[0]
                if last >= rows:
                    length = args[0].shape[-1]
                    raise _PositionsEnd(rows - (last - (length - 1)), length)
            return func(*args, **(kwargs or {}))

    return Counted()


def lengths(limit: int, window: int) -> list[int]:
    """Return the lengths in tokens of three documents in a row of at most `limit` tokens.

    The first is longer than an attention window if the row has room for it, else, if possible, than half a window.
    """
    total = min(limit, _LONGEST, max(1024, 3 * window))
    reach = window if window + 2 < total else window // 2
    short = max(1, min(total // 8, (total - reach - 1) // 2))
    return [total - 2 * short, short, short]


def kept(layers: int, lists: list[list[object]]) -> list[int]:
    """Return the layers that represent all: the first of each kind, and at least two.

    `lists`: options with one value for each layer.
    """
    kinds = [repr([values[number] for values in lists]) for number in range(layers)]
    first = {kinds.index(kind) for kind in kinds}
    return sorted({*first, *[n for n in range(layers) if n not in first][: max(0, _LAYERS - len(first))]})


def _smaller(config: "PretrainedConfig | None") -> "Iterator[PretrainedConfig]":
    """Yield copies of a configuration, the smallest first, the unchanged one last."""
    if config is None:
        return
    layers, tokens, width = _fewer_layers, _fewer_tokens, _narrower
    for parts in ((layers, tokens, width), (tokens, width), (layers, tokens), (tokens,), (layers,), ()):
        small = copy.deepcopy(config)
        try:
            for part in parts:
                part(small)
        except Exception:  # transformers refuses a value
            continue
        yield small


def _fewer_layers(config: "PretrainedConfig") -> None:
    count = config.num_hidden_layers
    lists = {k: v for k, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == count}
    numbers = kept(count, list(map(list, lists.values())))
    for name, values in lists.items():
        setattr(config, name, [values[number] for number in numbers])
    config.num_hidden_layers = len(numbers)


def _fewer_tokens(config: "PretrainedConfig") -> None:
    size = min(config.vocab_size, _VOCABULARY)
    for name, value in list(vars(config).items()):
        if name.endswith("_token_id") and isinstance(value, int) and value >= size:
            setattr(config, name, 0)
    config.vocab_size = size


def _narrower(config: "PretrainedConfig") -> None:
    """Set two heads of width 16, and the options that depend on them.

    There are as many key and value heads as heads if that was so before, else one.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None)
    sizes = {"hidden_size": _HEADS * _WIDTH, "num_attention_heads": _HEADS, "intermediate_size": 2 * _HEADS * _WIDTH}
    if groups is not None:
        sizes["num_key_value_heads"] = _HEADS if groups == heads else 1
    if getattr(config, "embedding_size", None) is not None:
        sizes["embedding_size"] = _HEADS * _WIDTH if config.embedding_size == hidden else _WIDTH
    for name in ("head_dim", "attention_head_size"):
        if getattr(config, name, None) is not None:
            sizes[name] = _WIDTH
    sizes |= {name: _HEADS * _WIDTH for name, value in vars(config).items() if "hidden" in name and value == hidden}
    for name, size in sizes.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, size)


def _built(config: "PretrainedConfig", auto_class: str, attention: str) -> "PreTrainedModel | None":
    """Return a model in eval mode with weights that distinguish tokens and positions; None: it is too large."""
    import torch
    import transformers

    def make() -> "PreTrainedModel":
        auto = getattr(transformers, auto_class)  # trusted code has been loaded before
        return auto.from_config(copy.deepcopy(config), attn_implementation=attention, trust_remote_code=False)

    with torch.device("meta"):
        if sum(p.numel() for p in make().parameters()) > _PARAMETERS:
            return None
    model = make().float().eval()
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for parameter in model.parameters():
        if parameter.dim() > 1:
            inputs = 1 if id(parameter) in embeddings else parameter.numel() // parameter.shape[0]
            torch.nn.init.normal_(parameter, std=1.5 * inputs**-0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            torch.nn.init.zeros_(module.weight[module.padding_idx])  # as torch initialises it
    return model


def _documents(sizes: list[int], config: "PretrainedConfig") -> "list[torch.Tensor]":
    """Return the token ids of documents, without padding tokens."""
    import torch

    ids = [torch.randint(0, config.vocab_size - 1, (size,)) for size in sizes]
    pad = getattr(config, "pad_token_id", None)
    return ids if pad is None else [one + (one >= pad) for one in ids]


def _window(config: "PretrainedConfig") -> int:
    """Return the largest attention window of a configuration; 0: none."""
    names = {"local_attention", *(name for name in dir(config) if "window" in name)}
    values = [getattr(config, name, None) for name in names]
    flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
    return max((one for one in flat if isinstance(one, int)), default=0)
