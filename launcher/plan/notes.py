"""Remarks of a plan that are no mistakes."""

import re
from collections.abc import Iterator

from launcher.config.atomic_files import allocated_bytes, free_bytes
from launcher.config.format import human
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.plan import memory, padding_probe
from launcher.plan.facts import Facts, cut_notes
from launcher.plan.model_spec import Architecture
from launcher.plan.padding_probe import Padding
from launcher.storage.run_dir import RunDir

_NAMES_OF_CODE = {"kind", "factory", "reward"}
"""Keys of a recipe whose value may be a dotted path."""


def of(recipe: Recipe, shape: Architecture, folder: RunDir, known: Facts | None) -> list[str]:
    """Return all remarks. `known`: facts of prepared data."""
    of_data = [] if known is None else [*cut_notes(known, often=False), *known.notes]
    return [
        *_remote_code(recipe),
        *_named_code(recipe),
        *_disk(recipe, shape, folder),
        *_model(recipe, shape),
        *of_data,
    ]


def _named_code(recipe: Recipe) -> list[str]:
    """Return a remark with the plug-ins and functions that the recipe names by dotted path, if there are any."""
    names = sorted(set(_dotted_paths(recipe.model_dump(mode="json"))))
    return [f"code that the recipe names runs as you, on every node: {', '.join(names)}"] if names else []


def _dotted_paths(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key in _NAMES_OF_CODE & value.keys():
            if isinstance(value[key], str) and re.search("[.:]", value[key]):
                yield value[key]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dotted_paths(item)


def _disk(recipe: Recipe, shape: Architecture, folder: RunDir) -> list[str]:
    half_written = folder.half_written()
    notes = [f"{path}: incomplete and ignored (the next save replaces it)" for path in half_written]
    size, count = memory.checkpoint(recipe, shape), recipe.checkpoint.keep + 1
    free = free_bytes(folder.path) + sum(map(allocated_bytes, half_written))
    if size * count > free:  # the newest is written before the oldest is deleted
        notes.append(f"checkpoint: {count} of {human(size)} do not fit into the {human(free)} that are free")
    return notes


def _model(recipe: Recipe, shape: Architecture) -> list[str]:
    notes = []
    if shape.padding not in (None, Padding.RIGHT):
        notes.append(padding_probe.note(shape.name))
    if recipe.packed and shape.packs is None:
        notes.append(f"task.samples: whether {shape.name} takes packed rows is tried when the run starts")
    return notes


def _remote_code(recipe: Recipe) -> list[str]:
    """Return a remark for each model and tokenizer whose own code will run."""
    tokenizer = recipe.tokenizer if isinstance(recipe.tokenizer, PretrainedTokenizer) else None
    trusting = {"model": recipe.model, "tokenizer": tokenizer}
    if recipe.task.teacher_model is not None:
        trusting[f"task.{recipe.task.teacher_key}"] = recipe.task.teacher_model
    return [
        f"REMOTE CODE: {key}.trust_remote_code: the code that {config.trusted_source} brings runs as you, on every node"
        for key, config in trusting.items()
        if config is not None and config.trusted_source is not None
    ]
