"""A small copy of a model, to try on it what the model itself can do. Only the child process of `_count` imports it."""

import copy
from collections.abc import Iterator
from typing import Any

_LAYERS, _HEADS, _WIDTH, _VOCABULARY = 2, 2, 16, 256
_LONGEST = 4096
"""Positions of the longest row that is tried, whatever the windows."""
_PARAMETERS = 50_000_000
"""A copy with more of them is none."""


def packs(model: Any, need: Any, task: Any) -> str | None:
    """Why the model cannot be given packed rows, told by a copy of it; empty: it can; None: no copy could be tried.
    `model`: on the meta device. `task`: has `refusal`."""
    import torch

    torch.manual_seed(0)
    for config in _smaller(getattr(model, "config", None)):
        try:
            small = _built(config, need.auto_class, model.config._attn_implementation)
            if small is None:
                continue
            documents = _documents(lengths(need.max_length, _window(config)), config)
            if not small(input_ids=documents[0][None]).logits.isfinite().all():
                continue
            return task.refusal(small, documents, config.pad_token_id or 0) or ""
        except Exception:  # a configuration of any architecture may not bear what was made smaller in it
            continue
    return None


def lengths(most: int, window: int) -> list[int]:
    """Tokens of three documents in a row of at most `most`, the first longer than a window (or half of one) where that
    can be."""
    total = min(most, _LONGEST, max(1024, 3 * window))
    reach = window if window + 2 < total else window // 2
    short = max(1, min(total // 8, (total - reach - 1) // 2))
    return [total - 2 * short, short, short]


def kept(layers: int, lists: list[list[Any]]) -> list[int]:
    """Which layers stand for all: the first of each kind, and two at least. `lists`: what is said of each layer."""
    kinds = [repr([values[number] for values in lists]) for number in range(layers)]
    first = {kinds.index(kind) for kind in kinds}
    return sorted({*first, *[n for n in range(layers) if n not in first][: max(0, _LAYERS - len(first))]})


def _smaller(config: Any) -> Iterator[Any]:
    """Copies of a configuration, the smallest first; the last one is as it was."""
    if config is None:
        return
    for parts in ((_fewer_layers, _fewer_tokens, _narrower), (_fewer_layers, _fewer_tokens), (_fewer_layers,), ()):
        small = copy.deepcopy(config)
        try:
            for part in parts:
                part(small)
        except Exception:  # transformers refuses a value
            continue
        yield small


def _fewer_layers(config: Any) -> None:
    count = config.num_hidden_layers
    lists = {k: v for k, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == count}
    numbers = kept(count, list(map(list, lists.values())))
    for name, values in lists.items():
        setattr(config, name, [values[number] for number in numbers])
    config.num_hidden_layers = len(numbers)


def _fewer_tokens(config: Any) -> None:
    size = min(config.vocab_size, _VOCABULARY)
    for name, value in list(vars(config).items()):
        if name.endswith("_token_id") and isinstance(value, int) and value >= size:
            setattr(config, name, 0)
    config.vocab_size = size


def _narrower(config: Any) -> None:
    """Two heads of 16, and what goes with them: as many keys and values as heads, or fewer, as it was."""
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
    for name, size in sizes.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, size)


def _built(config: Any, auto_class: str, attention: str) -> Any:
    """A model in eval mode with weights that tell tokens and positions apart; None where it is too large."""
    import torch
    import transformers

    def make() -> Any:
        auto = getattr(transformers, auto_class)  # where the recipe trusts code it has been loaded, and is known by now
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
    return model


def _documents(sizes: list[int], config: Any) -> list[Any]:
    """Token ids of documents, none of them padding."""
    import torch

    ids = [torch.randint(0, config.vocab_size - 1, (size,)) for size in sizes]
    pad = config.pad_token_id
    return ids if pad is None else [one + (one >= pad) for one in ids]


def _window(config: Any) -> int:
    """The largest window that the configuration names; 0: none."""
    names = {"local_attention", *(name for name in dir(config) if "window" in name)}
    found = [getattr(config, name, None) for name in names]
    flat = [one for value in found for one in (value if isinstance(value, list | tuple) else [value])]
    return max((one for one in flat if isinstance(one, int)), default=0)
