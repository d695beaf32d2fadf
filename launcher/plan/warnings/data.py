"""Data that is seen too little, too often or cut, and validation data that is trained on."""

from collections.abc import Iterator
from pathlib import Path

from launcher.config import plugins
from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.config.types import Plugin
from launcher.plan import sample_order
from launcher.plan.facts import Facts

_MOST_EPOCHS = 1000
"""Maximum number of passes over the training samples without a warning."""
_LEAST_SEEN = 0.01
"""Share of the training samples that a run sees at least, without a warning."""
_READING = {"limit", "on_bad_row"}
"""Keys of a source that do not decide where its rows come from."""


def warnings(recipe: Recipe, known: Facts | None, steps: int | None) -> list[Problem]:
    """Return the warnings about the data. `known`: facts of prepared data; `steps`: optimiser steps, if known."""
    found = _trained_validation(recipe)
    if known is not None:
        found += [*_cut(recipe, known), *_seen(recipe, known, steps or 0)]
    return found


def _trained_validation(recipe: Recipe) -> list[Problem]:
    """Return a warning if validation rows come from where training rows come from."""
    validation = recipe.data.validation
    if not isinstance(validation, Plugin):
        return []
    advice = "{fraction: 0.1} holds out rows of data.train; or other files"
    what = f"the metrics then show what was learnt by heart, not what the model can do ({advice})"
    sources = list(_sources(recipe.data.train))
    if any(_origin(source) == _origin(other) for source in sources for other in _sources(validation)):
        return [Problem("data.validation", f"the same rows as data.train: {what}")]
    trained = {file for source in sources for file in _files(source)}
    if not (shared := sorted(trained & {file for source in _sources(validation) for file in _files(source)})):
        return []
    return [
        Problem("data.validation", f"{plural(len(shared), 'file')} of data.train, such as {shared[0].name}: {what}")
    ]


def _sources(source: Plugin) -> Iterator[Plugin]:
    """Yield the sources of a mixture, or the source itself."""
    inner = plugins.source(source).mixed()
    for one, _ in inner.values():
        yield from _sources(one)
    if not inner:
        yield source


def _origin(source: Plugin) -> dict[str, object]:
    """Return the keys that decide where the rows of a source come from."""
    return source.model_dump(mode="json", exclude=_READING)


def _files(source: Plugin) -> set[Path]:
    """Return the files of a source; empty: it has none, or they cannot be found."""
    try:
        return {file.resolve() for file in plugins.source(source).local_files("data")}
    except (UserError, OSError):
        return set()


def _cut(recipe: Recipe, known: Facts) -> list[Problem]:
    """Return a warning for each side of the data with many rows that `max_length` cuts."""
    longer = f"data.max_length={2 * recipe.data.max_length}, if the model has as many positions"
    advice = f"{longer}; or shorter texts"
    cut = {side: counts for side, counts in known.cut.items() if counts.often}
    return [Problem("data.max_length", f"{side}: {counts} ({advice})") for side, counts in cut.items()]


def _seen(recipe: Recipe, known: Facts, steps: int) -> list[Problem]:
    """Return a warning if the training samples are seen very often, or hardly any of them is."""
    samples, available = steps * recipe.train.global_batch, known.samples["train"]
    if samples > _MOST_EPOCHS * available:
        what = f"each of the {available:,} training samples is seen {samples // available:,} times"
        return [Problem("train.steps", f"{what} (a model learns them by heart: fewer steps, or more data)")]
    if 0 < samples < _LEAST_SEEN * available and not sample_order.weights(recipe.data.train):
        what = f"{samples:,} of the {available:,} training samples are seen, {samples / available:.2%}"
        pass_over = -(-available // recipe.train.global_batch)
        return [
            Problem("train.steps", f"{what} (train.steps={pass_over} sees each once; or a smaller data.train.limit)")
        ]
    return []
