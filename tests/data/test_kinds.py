"""Rules for every kind of source. A new kind is tested without a change here."""

import json
import pickle
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from data.reading import read
from pydantic import ValidationError
from support import image_files

from launcher import data
from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.config.requested_columns import Column
from launcher.data import BadRow, Part, _columns, _files
from launcher.data._source import SourceConfig

ROWS = [{"text": f"document {n} has words", "label": ["odd", "even"][n % 2 == 0]} for n in range(12)]
KINDS = [kind for kind in kinds.available("data") if kinds.module("data", kind).Source.mixed is data.Source.mixed]
IMAGES, NUMBERS = ("image", "label"), ("features", Column("label", "number"))
OWN = {"digits": IMAGES, "image_folder": IMAGES, "mnist": IMAGES, "linear": NUMBERS}
"""The columns of the kinds without texts."""


@pytest.fixture(params=KINDS)
def kind(request, here):
    return here(request.param)


@pytest.fixture(params=[kind for kind in KINDS if kind not in OWN])
def texts(request, here):
    """A kind with texts."""
    return here(request.param)


@pytest.fixture(params=OWN)
def own(request, here):
    """A kind without texts."""
    return here(request.param)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with the same rows in many formats."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    texts = "\n\n".join(row["text"] for row in ROWS)
    lines = "\n".join(json.dumps(row) for row in ROWS)
    files = {
        "rows.txt": texts,
        "rows.jsonl": lines,
        "rows.csv": "text,label\n" + "\n".join(f"{row['text']},{row['label']}" for row in ROWS),
        "folder/train.jsonl": lines,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n", encoding="utf-8")
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=2)
    image_files.folder(tmp_path / "rows.image_folder")
    image_files.idx(tmp_path / "rows.mnist")
    return partial(_with, tmp_path)


def _with(folder, kind):
    """Write the rows in the format of a kind that takes time to write."""
    if kind == "arrow":
        import datasets

        datasets.Dataset.from_list(ROWS).save_to_disk(folder / "rows.arrow")
    return kind


def configured(kind, tmp_path, **keys):
    """Return the module and a small configuration of a kind: with its `path` or `name`, if it has one."""
    module = kinds.module("data", kind)
    file = next((n for n in (f"rows.{kind}",) if (tmp_path / n).exists()), "rows.txt")
    given = {"path": file, "name": "./folder", "packages": ["json"]}
    asked = {name: value for name, value in given.items() if name in module.Config.model_fields}
    return module, module.Config.model_validate({"kind": kind, **asked, **keys})


def plain(rows):
    """Make rows comparable: arrays become lists, with their types."""
    known = {np.ndarray: lambda array: [str(array.dtype), array.tolist()]}
    return [
        row if isinstance(row, BadRow) else {name: known.get(type(v), lambda v: v)(v) for name, v in row.items()}
        for row in rows
    ]


def test_its_configuration_has_the_name_of_its_module_as_kind(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    assert isinstance(config, SourceConfig)
    assert config.kind == kind == module.Config.model_fields["kind"].default


def test_it_refuses_a_key_it_does_not_know_and_tells_the_one_that_was_meant(kind, tmp_path):
    with pytest.raises(ValidationError, match=r"unknown key \(did you mean limit\?\)"):
        configured(kind, tmp_path, limits=3)


@pytest.mark.parametrize("keys", [{"limit": 0}, {"on_bad_row": "ignore"}])
def test_it_refuses_a_limit_below_one_and_what_it_cannot_do_with_bad_rows(kind, tmp_path, keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        configured(kind, tmp_path, **keys)


def test_its_rows_are_texts_and_the_same_each_time_they_are_read(texts, tmp_path):
    kind = texts
    module, config = configured(kind, tmp_path)
    rows = read(module, config)
    assert rows == read(module, config)
    assert all(set(row) == {"text"} and isinstance(row["text"], str) and row["text"] for row in rows)
    assert kind == "python_docs" or rows == [{"text": row["text"]} for row in ROWS]


def test_its_rows_are_images_or_numbers_and_the_same_each_time_they_are_read(own, tmp_path):
    module, config = configured(own, tmp_path)
    rows = read(module, config, *OWN[own])
    assert plain(rows) == plain(read(module, config, *OWN[own]))
    assert all(set(row) == set(OWN[own]) for row in rows)
    if own == "linear":
        assert all(isinstance(row["label"], float) and [*map(type, row["features"])] == [float] for row in rows)
        return
    assert all(row["image"].dtype == np.uint8 and row["image"].ndim == 3 for row in rows)
    assert len({row["label"] for row in rows}) > 1


def test_it_says_what_it_gives_where_it_is_asked_for_something_else(own, tmp_path):
    module, config = configured(own, tmp_path)
    told = rf"^data\.train\.kind: {own} has no text \(it gives {OWN[own][0]} and label\)$"
    with pytest.raises(UserError, match=told):
        read(module, config, "text", "text_pair", "label")


def test_without_labels_it_gives_the_rest_of_the_same_rows(own, tmp_path):
    module, config = configured(own, tmp_path)
    whole = [{name: row[name] for name in OWN[own][:1]} for row in read(module, config, *OWN[own])]
    assert plain(read(module, config, OWN[own][0])) == plain(whole)


def test_limit_and_bad_rows_are_left_to_its_reader(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    fewer, columns = config.model_copy(update={"limit": 2, "on_bad_row": "skip"}), OWN.get(kind, ("text",))
    assert plain(read(module, fewer, *columns)) == plain(read(module, config, *columns))


def test_its_parts_are_cut_by_the_content_alone_and_give_the_rows_of_the_whole_in_any_order(
    kind, tmp_path, monkeypatch
):
    module, config = configured(kind, tmp_path)
    columns = OWN.get(kind, ("text",))
    whole = read(module, config, *columns)
    if module.Source.parts is data.Source.parts:
        return
    monkeypatch.setattr(_files, "PART", 40)
    parts = module.Source(config).parts("data.train")
    assert parts == module.Source(config).parts("data.validation")
    assert all(isinstance(part, Part) and pickle.loads(pickle.dumps(part)) == part for part in parts)
    assert all(part.size > 0 for part in parts)
    assert len(parts) > 1 or kind == "csv"
    found = {n: list(module.Source(config).rows(columns, "data.train", parts[n])) for n in reversed(range(len(parts)))}
    assert plain(row for n in range(len(parts)) for row in found[n]) == plain(whole)


def test_its_labels_come_with_its_texts_where_it_has_any(texts, tmp_path):
    kind = texts
    if kind in ("text", "python_docs"):
        return
    module, config = configured(kind, tmp_path)
    assert read(module, config, "text", "label") == ROWS
    swapped = config.model_copy(update={"text": "label", "label": "text"})
    assert read(module, swapped, "text", "label")[0] == {"text": "even", "label": "document 0 has words"}


def test_what_is_wrong_with_a_row_stands_in_its_place_and_says_where(kind, tmp_path, monkeypatch):
    if kind == "python_docs" or kind in OWN:  # for images see test_image_folder
        return
    monkeypatch.setattr(_columns, "MAX_ROW", 20)
    module, config = configured(kind, tmp_path)
    rows = read(module, config)
    bad = [n for n, row in enumerate(rows) if isinstance(row, BadRow)]
    assert len(rows) == len(ROWS)
    assert bad and all("more than the" in rows[n].what and rows[n].where for n in bad)


def test_its_fingerprint_is_a_text_that_stays_and_does_not_depend_on_the_key(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    found = {module.Source(config).fingerprint(key) for key in ("data.train", "data.train", "data.validation")}
    assert len(found) == 1
    assert all(isinstance(one, str) and one for one in found)
