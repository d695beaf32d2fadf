"""The keys of overrides: those of the cluster profile, and overrides without some keys."""

import json
from collections.abc import Sequence

from launcher.config import document as documents
from launcher.config.document import Override
from launcher.config.recipe import flatten

CLUSTER = "cluster."
"""Beginning of the overrides of the profile."""


def parted(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides into those of the recipe and those of the profile. The latter begin with `cluster.`."""
    ours = [text.lstrip().startswith(CLUSTER) for text in overrides]
    return (
        [text for text, of_cluster in zip(overrides, ours, strict=True) if not of_cluster],
        [text for text, of_cluster in zip(overrides, ours, strict=True) if of_cluster],
    )


def apart_from(keys: Sequence[str], override: str) -> list[str]:
    """Return an override as it is if it sets none of these keys; else those of its values that are of other keys."""
    values = flatten(documents.of_override(override).value)
    others = {key: value for key, value in values.items() if not any(f"{key}.".startswith(f"{one}.") for one in keys)}
    if len(others) == len(values):
        return [override]
    where = documents.origin_of(override)
    return [Override(f"{key}={json.dumps(value, ensure_ascii=False)}", where) for key, value in others.items()]
