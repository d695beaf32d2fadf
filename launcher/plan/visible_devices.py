"""CUDA_VISIBLE_DEVICES: the GPUs and MIG slices that a process may use, and their order."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VARIABLE = "CUDA_VISIBLE_DEVICES"
_NUMBER = re.compile(r"\s*([+-]?[0-9]+)")


@dataclass(frozen=True)
class Selection:
    """Selected devices. `uuids`: their identifiers in the order of their indices. `invalid`: the entry that hides those
    after it; empty: there is none."""

    uuids: tuple[str, ...]
    invalid: str = ""


def select(value: str | None, gpus: Mapping[str, Sequence[str]]) -> Selection:
    """Return the devices that CUDA shows to a process.

    `value`: of the variable; None: it is not set. `gpus`: identifiers of the GPUs in CUDA's order, each with those of
    its MIG slices. A GPU is named by its index or the beginning of its identifier, a slice by its identifier. An
    invalid entry hides those after it, and so does -1, as a chosen end of the list. A device that is named twice hides
    all (CUDA programming guide, environment variables).
    """
    if value is None:
        return Selection(tuple(gpus))
    found = list[str]()
    for entry in value.split(","):
        uuid = _device(entry, gpus)
        if uuid is None:
            return Selection(tuple(found), "" if entry.strip() in ("", "-1") else entry.strip())
        if uuid in found:
            return Selection((), entry.strip())
        found.append(uuid)
    return Selection(tuple(found))


def _device(entry: str, gpus: Mapping[str, Sequence[str]]) -> str | None:
    """Return the identifier of the device that an entry names; None: it names none, or several.

    CUDA reads the digits at the beginning of an entry, and ignores what follows.
    """
    if number := _NUMBER.match(entry):
        index = int(number[1])
        return list(gpus)[index] if 0 <= index < len(gpus) else None
    entry = entry.strip()
    known = [*gpus, *(part for slices in gpus.values() for part in slices)]
    if entry in known:
        return entry
    matches = [uuid for uuid in known if entry.startswith(("GPU-", "MIG-")) and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None
