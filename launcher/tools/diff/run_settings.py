"""The settings of a run that decide what it learns, or only how: recipe, versions, data, machine and layout."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from launcher.config import strict_json
from launcher.config.errors import one_line
from launcher.config.recipe import trajectory
from launcher.config.strict_json import DamagedFile
from launcher.config.types import JsonObject
from launcher.storage import job_log
from launcher.tools import recipe_differences
from launcher.tools.seen.run_data import RunData

RECIPE, PERFORMANCE, VERSIONS, DATA, MACHINE = "recipe", "performance", "versions", "data", "machine"
SECTIONS = (RECIPE, PERFORMANCE, VERSIONS, DATA, MACHINE)


@dataclass(frozen=True)
class Difference:
    """A setting in which two runs differ. `values`: of the first and of the second run; empty: it has none."""

    section: str
    key: str
    values: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.key} {self.values[0] or 'none'} / {self.values[1] or 'none'}"


def differences(one: RunData, other: RunData) -> list[Difference]:
    """Return the differing settings of two runs, by section. Raises DamagedFile."""
    found = list(_recipes(one, other))
    for section, read in ((VERSIONS, _versions), (DATA, _data), (MACHINE, _machine)):
        found += _differing(section, read(one), read(other))
    return found


def _recipes(one: RunData, other: RunData) -> Iterator[Difference]:
    """Yield the differing keys of the recipes: those that decide the trajectory, then the others."""
    steering = [*trajectory(one.recipe), *trajectory(other.recipe)]
    dumped = {"0": one.recipe.model_dump(mode="json"), "1": other.recipe.model_dump(mode="json")}
    found = recipe_differences.differences(dumped)
    decides = {key: any(k == key or k.startswith(f"{key}.") for k in steering) for key in found}
    for section in (RECIPE, PERFORMANCE):
        for key, values in found.items():
            if decides[key] == (section == RECIPE):
                yield Difference(section, key, (values.get("0", ""), values.get("1", "")))


def _differing(section: str, one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[Difference]:
    for key in {**one, **other}:
        values = one.get(key, ""), other.get(key, "")
        if values[0] != values[1]:
            yield Difference(section, key, values)


def _environment(run: RunData) -> JsonObject:
    if not strict_json.exists(run.folder.environment):
        return {}
    return strict_json.read_object(run.folder.environment, "launcher run writes it again")


def _versions(run: RunData) -> dict[str, str]:
    found = _environment(run)
    packages = found.get("versions")
    versions = {name: str(found[name]) for name in ("python", "git") if found.get(name)}
    return versions | {k: str(v) for k, v in (packages if isinstance(packages, dict) else {}).items()}


def _data(run: RunData) -> dict[str, str]:
    facts = run.facts
    counts = {f"{side} samples": f"{count:,}" for side, count in facts.samples.items()}
    counts |= {f"{side} tokens": f"{count:,}" for side, count in facts.tokens.items()}
    labels = {"labels": ", ".join(facts.labels)} if facts.labels else {}
    return {"digest": facts.digest, "vocabulary": f"{facts.vocab_size:,}", **counts, **labels}


def _machine(run: RunData) -> dict[str, str]:
    found = {name: str(value) for name in ("host", "platform", "cores") if (value := _environment(run).get(name))}
    with suppress(DamagedFile):
        plan = strict_json.read_object(run.folder.plan, "")
        found |= {name: one_line(str(plan[name])) for name in ("device", "strategy") if plan.get(name)}
    return {**found, "ranks": _ranks(run)}


def _ranks(run: RunData) -> str:
    """Return the numbers of ranks of the starts, in their order, such as `2, then 1 from step 10`."""
    try:
        jobs = job_log.story(job_log.read(run.folder))
    except DamagedFile:
        return ""
    starts = sorted((start for job in jobs for start in job.starts if start.ranks), key=lambda start: start.begun)
    return _joined([(start.ranks, start.first + 1) for start in starts])


def _joined(starts: Sequence[tuple[int, int]]) -> str:
    texts = [f"{ranks} from step {first}" if number else str(ranks) for number, (ranks, first) in enumerate(starts)]
    return ", then ".join(texts)
