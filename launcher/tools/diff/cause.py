"""The likely cause of the first difference between two runs, as a sentence."""

from collections.abc import Sequence

from launcher.config.errors import UserError
from launcher.config.format import some
from launcher.tools.diff import sample_differences
from launcher.tools.diff.run_settings import MACHINE, PERFORMANCE, RECIPE, VERSIONS, Difference
from launcher.tools.diff.sample_differences import SampleDifferences
from launcher.tools.diff.step_comparison import StepComparison
from launcher.tools.seen.run_data import RunData

_FIRST = ("model", "seed", "train.precision", "tokenizer", "task", "data.max_length", "train.global_batch")
"""Keys that can change the first loss."""
_RATE = ("optimizer.lr", "schedule", "train.steps", "train.epochs", "evaluate", "data.validation")
"""Keys that can change the learning rate."""
_SAMPLES = ("data.max_length", "data.deduplicate", "data.validation", "tokenizer", "task")
"""Keys that can change the number of samples."""
_MOST = 4
"""Maximum number of settings that a sentence names."""


def of(
    one: RunData,
    other: RunData,
    settings: Sequence[Difference],
    steps: StepComparison,
    samples: SampleDifferences | None,
    precision: str,
) -> str:
    """Return the likely cause of the first difference; empty: no step differs. `precision`: of both runs, or the one
    with the larger rounding."""
    if steps.first is None:
        return ""
    at = {name: compared.first == steps.first for name, compared in steps.quantities.items()}
    recipe = [difference for difference in settings if difference.section == RECIPE]
    if at["data"]:
        return _of_data(one, other, recipe, steps.first, samples)
    if steps.left_out == steps.first:
        return f"step {steps.first} is left out in one run alone, after a spike at which it went back"
    if at["lr"]:
        named = _named(recipe, _RATE)
        return f"the learning rate: {named}" if named else "the learning rate, though the recipes agree on its schedule"
    if steps.first == steps.begin and (named := _named(recipe, _FIRST)):
        return f"the model or how it computes: {named}"
    if recipe:
        return f"the recipe: {_some(recipe)}"
    return _of_rounding(settings, steps, precision)


def _of_data(
    one: RunData, other: RunData, recipe: Sequence[Difference], step: int, samples: SampleDifferences | None
) -> str:
    """Return why the samples of a step differ."""
    batch = _named(recipe, ("train.global_batch",))
    if batch:
        return f"the global batch: {batch}"
    if samples is None:
        named = _some(recipe) if recipe else f"the data: digest {one.facts.digest[:8]} / {other.facts.digest[:8]}"
        return f"{named} (the cache does not have the data of both runs, so that the first row is not known)"
    try:
        what, id = sample_differences.first_row(one, other, step)
    except UserError as error:
        return f"the data ({error.problems[0]})"
    if what == "order":
        return _of_order(one, other, recipe, samples)
    if what == "row" and id is not None:
        if samples.tokenizers:
            return f"the tokenizer, which changes most samples{_reasons(recipe)}"
        return f"the data has changed: sample {id}, {sample_differences.rows_of(one, other, id)}"
    if what == "draws":
        named = _named(recipe, ("seed", "task", "train.steps", "train.epochs"))
        return f"the masks, or other random changes of samples: {named}" if named else "the masks of the same samples"
    return "the cache gives both runs the same samples now: one of them was trained by another version of the launcher"


def _of_order(one: RunData, other: RunData, recipe: Sequence[Difference], samples: SampleDifferences) -> str:
    if named := _named(recipe, ("seed",)):
        return f"the seed, which orders the samples: {named}"
    if named := _named(recipe, _SAMPLES):
        return f"the samples that are made of the data: {named}"
    if samples.counts[0] != samples.counts[1]:
        counts = " / ".join(f"{count:,}" for count in samples.counts)
        row = f"; the first that differs is sample {samples.first}" if samples.first is not None else ""
        where = "" if samples.first is None else f", {sample_differences.rows_of(one, other, samples.first)}"
        return f"the number of training samples, over which the order is drawn: {counts}{row}{where}"
    return f"the order of the samples{_reasons(recipe)}"


def _of_rounding(settings: Sequence[Difference], steps: StepComparison, precision: str) -> str:
    """Return the cause of a difference of losses with the same samples, rates and recipes."""
    versions = [one for one in settings if one.section == VERSIONS]
    layout = [one for one in settings if one.section in (PERFORMANCE, MACHINE) and one.key != "host"]
    if versions:
        return f"other versions: {_some(versions)}"
    before = max(steps.quantities[name].largest for name in ("loss", "grad_norm"))
    grown = f"the difference was at most {before:.0e} before step {steps.first}, and may have grown from rounding"
    if layout:
        return f"rounding of {precision} in another layout ({_some(layout)}): {grown}"
    return f"nothing that is recorded differs: an operation of {precision} is not deterministic, or a device is faulty"


def _named(found: Sequence[Difference], keys: Sequence[str]) -> str:
    """Return those of the differences that are of these keys, or below them."""
    return _some([one for one in found if any(one.key == key or one.key.startswith(f"{key}.") for key in keys)])


def _some(found: Sequence[Difference]) -> str:
    return some([str(one) for one in found], _MOST)


def _reasons(recipe: Sequence[Difference]) -> str:
    return f": {_some(recipe)}" if recipe else ""
