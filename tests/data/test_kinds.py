"""What every source keeps to, whatever its kind: a new one is covered by being there."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from launcher.config import kinds
from launcher.data._source import SourceConfig

ROWS = [{"text": f"document {n} has words", "label": ["odd", "even"][n % 2 == 0]} for n in range(12)]


@pytest.fixture(params=kinds.available("data"))
def kind(request, tmp_path, monkeypatch):
    """A kind, in a folder with the same rows in many formats."""
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
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    return request.param


def configured(kind, tmp_path, **keys):
    """The smallest configuration of a kind: `path` or `name` where it has one, and few rows."""
    module = kinds.module("data", kind)
    file = next((n for n in (f"rows.{kind}",) if (tmp_path / n).exists()), "rows.txt")
    given = {"path": file, "name": "./folder"}
    asked = {name: value for name, value in given.items() if name in module.Config.model_fields}
    return module, module.Config.model_validate({"kind": kind, "limit": 6, **asked, **keys})


def test_its_configuration_has_the_name_of_its_module_as_kind(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    assert isinstance(config, SourceConfig)
    assert config.kind == kind == module.Config.model_fields["kind"].default


def test_it_refuses_a_key_it_does_not_know_and_tells_the_one_that_was_meant(kind, tmp_path):
    with pytest.raises(ValidationError, match=r"unknown key \(did you mean limit\?\)"):
        configured(kind, tmp_path, limits=3)


def test_it_refuses_a_limit_below_one(kind, tmp_path):
    with pytest.raises(ValidationError, match="limit"):
        configured(kind, tmp_path, limit=0)


def test_its_rows_are_texts_and_the_same_each_time_they_are_read(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    read = [list(module.rows(config, ("text",), "data.train")) for _ in range(2)]
    assert read[0] == read[1]
    assert len(read[0]) == 6
    assert all(set(row) == {"text"} and isinstance(row["text"], str) and row["text"] for row in read[0])


def test_a_limit_gives_the_first_rows_of_those_without_it(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    rows = list(module.rows(config, ("text",), "data.train"))
    fewer = config.model_copy(update={"limit": 2})
    assert list(module.rows(fewer, ("text",), "data.train")) == rows[:2]


def test_its_fingerprint_is_a_text_that_stays_and_does_not_depend_on_the_key(kind, tmp_path):
    module, config = configured(kind, tmp_path)
    found = {module.fingerprint(config, key) for key in ("data.train", "data.train", "data.validation")}
    assert len(found) == 1
    assert all(isinstance(one, str) and one for one in found)
