"""Labels with too few rows to be learnt."""

from launcher.config.errors import Problem
from launcher.config.format import plural
from launcher.plan.facts import Facts

_FEW = 10
"""Number of training rows of a label below which a warning is given: fewer than in any public benchmark that trains all
of a model, and the few-shot literature calls 8 to 16 rows few (Gao et al., 2021)."""
_SHOWN = 3
"""Maximum number of labels that are named."""


def warnings(known: Facts | None) -> list[Problem]:
    """Return a warning if labels have few training rows. `known`: facts of prepared data."""
    if known is None or len(known.counts) < 2:
        return []
    few = sorted((count, label) for label, count in zip(known.labels, known.counts, strict=True) if count < _FEW)
    if not few:
        return []
    named = ", ".join(f"{label!r} {count:,}" for count, label in few[:_SHOWN])
    more = f", and {len(few) - _SHOWN} more" if len(few) > _SHOWN else ""
    what = f"{plural(len(few), 'label')} of {len(known.counts)} with fewer than {_FEW} training rows ({named}{more})"
    return [Problem("data.train", f"{what}: they are hardly learnt (more rows of them, or merge labels)")]
