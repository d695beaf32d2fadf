"""Label names of a data set: their order, numbers and checks."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.tasks import IGNORE, JsonObject

_BOOLEANS = {"true": "1", "false": "0"}


def check(names: Collection[str], key: str) -> None:
    """Check the distinct label names of the training data.

    Raises UserError if there are fewer than two. Also raises it for names that are probably spellings of one label:
    they differ only in white space, in decimals of a whole number (1.0), or as `true` and `1`.
    """
    if len(names) < 2:
        what = f"{len(names)} label in the training data: a classifier needs two or more"
        raise UserError(Problem(key, what))
    spellings: dict[str, list[str]] = {}
    for name in sorted(names):
        spellings.setdefault(_canonical(name), []).append(name)
    ambiguous = [same for same in spellings.values() if len(same) > 1]
    if ambiguous:
        raise UserError([Problem(key, _ambiguity(same)) for same in ambiguous])


def in_order(names: Collection[str]) -> list[str]:
    """Return label names in order: by value if all are whole numbers, else alphabetically."""
    numeric = all(re.fullmatch(r"-?\d+", name) for name in names)
    return sorted(names, key=lambda name: (int(name) if numeric else 0, name))


def check_prepared(labels: Collection[str], key: str, folder: Path) -> None:
    """Check the labels of prepared data. Raises UserError for -100 and for a blank label, which earlier versions
    accepted."""
    if wrong := [name for name in labels if not name.strip() or name == "-100"]:
        what = f"the data in {folder} was prepared with a class {wrong[0]!r}, which is no label"
        raise UserError(Problem(key, f"{what} (move that folder away: the data is prepared again)"))


def indices(names: pa.Array, labels: Sequence[str], key: str) -> pa.Array:
    """Return the label number of each name, int64; IGNORE for null. Raises UserError for a name that is not in
    `labels`."""
    import pyarrow.compute as pc

    numbers = pc.index_in(names, pa.array(labels, names.type))
    unknown = pc.and_(numbers.is_null(), names.is_valid())
    if pc.any(unknown).as_py():
        first = pc.min(names.filter(unknown)).as_py()
        what = f"{first!r} stands in the validation data and not in the training data ({hint(first, labels)})"
        raise UserError(Problem(key, what))
    return numbers.cast(pa.int64()).fill_null(IGNORE)


def model_options(labels: Sequence[str]) -> JsonObject:
    """Return the label keys of a model's configuration: num_labels, id2label and label2id."""
    numbers = {label: number for number, label in enumerate(labels)}
    return {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": numbers}


def top_predictions(probabilities: NDArray[np.float64], labels: Sequence[str], count: int) -> list[list[JsonObject]]:
    """Return the `count` most probable labels of each sample with their probabilities, the best first. probabilities:
    shape (samples, classes)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return [
        [{"label": labels[n], "probability": rounded(p[n])} for n in row]
        for row, p in zip(order, probabilities, strict=True)
    ]


def rounded(probability: float) -> float:
    """Return a probability rounded to six significant digits."""
    return float(f"{probability:.6g}")


def _canonical(name: str) -> str:
    """Return a text that is the same for all spellings of a label."""
    plain = " ".join(name.split())
    if re.fullmatch(r"-?\d+\.0+", plain):
        plain = plain.partition(".")[0]
    folded = plain.casefold()
    return _BOOLEANS.get(folded, plain)


def _ambiguity(names: Sequence[str]) -> str:
    listed = " and ".join(map(repr, names))
    why = "differ only by white space" if len({"".join(name.split()) for name in names}) == 1 else "mean the same"
    return f"{listed} are two labels here, and {why} (write them alike)"
