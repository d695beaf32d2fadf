"""Several sources with weights."""

import json

import pytest
from pydantic import ValidationError

from launcher.config.errors import UserError
from launcher.config.recipe import Data
from launcher.data import jsonl, mixture, text


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a text\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"body": "a row"}\n', encoding="utf-8")


BOOKS = {"kind": "text", "path": "a.txt"}
WEB = {"kind": "jsonl", "path": "b.jsonl", "text": "body", "limit": 5}


def made(sources=None, weights=None):
    sources = {"books": BOOKS, "web": WEB} if sources is None else sources
    return mixture.Config(sources=sources, weights={"books": 3, "web": 1} if weights is None else weights)


def test_its_sources_are_checked_as_their_kinds_ask_and_their_weights_add_up_to_one():
    found = mixture.Source(made()).mixed()
    assert list(found) == ["books", "web"]
    assert found["books"] == (text.Config(path="a.txt"), 0.75)
    assert found["web"] == (jsonl.Config(path="b.jsonl", text="body", limit=5), 0.25)


def test_it_is_a_source_of_a_recipe_and_is_written_whole():
    asked = {"kind": "mixture", "sources": {"books": BOOKS, "web": WEB}, "weights": {"books": 1, "web": 0.5}}
    data = Data.model_validate({"train": asked})
    said = json.loads(data.model_dump_json())["train"]
    assert (said["sources"]["web"]["text"], said["weights"]) == ("body", {"books": 1.0, "web": 0.5})
    assert Data.model_validate({"train": said}) == data


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        ({"books": BOOKS}, {"books": 1}, "a mixture needs two sources or more"),
        ({}, {}, "a mixture needs two sources or more"),
        (None, {"books": 1}, "no weight for web"),
        (None, {"books": 1, "web": 1, "wbe": 1}, r"no source is called wbe \(did you mean web\?\)"),
        (None, {"books": 1, "wbe": 1}, r"no weight for web; no source is called wbe \(did you mean web\?\)"),
        (None, {"books": 1, "web": 0}, r"weights\.web\n.*greater than 0"),
        (None, {"books": 1, "web": float("inf")}, r"weights\.web\n.*finite"),
        ({"books": BOOKS, "web": {**WEB, "limt": 2}}, None, r"sources\.web\.limt\n.*did you mean limit\?"),
        ({"books": BOOKS, "web": {"kind": "jsnl"}}, None, r"sources\.web\n.*did you mean jsonl\?"),
        ({"books": BOOKS, "a.b": WEB}, {"books": 1, "a.b": 1}, "a.b"),
    ],
)
def test_what_is_wrong_is_told(sources, weights, message):
    with pytest.raises(ValidationError, match=message):
        made(sources, weights)


def test_a_mixture_in_a_mixture_is_refused():
    inner = {"kind": "mixture", "sources": {"books": BOOKS, "web": WEB}, "weights": {"books": 1, "web": 1}}
    with pytest.raises(ValidationError, match="inner: a mixture in a mixture: name its sources here"):
        made({"books": BOOKS, "inner": inner}, {"books": 1, "inner": 1})


def test_the_fingerprint_is_that_of_the_sources_in_their_order_and_not_of_the_weights(tmp_path):
    def found(**keys):
        return mixture.Source(made(**keys)).fingerprint("data.train")

    before = found()
    assert found(weights={"books": 1, "web": 9}) == before
    assert found(sources={"web": WEB, "books": BOOKS}) != before
    (tmp_path / "a.txt").write_text("another text\n", encoding="utf-8")
    assert found() != before


def test_what_is_wrong_with_any_source_is_told_with_its_key(tmp_path):
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError) as told:
        mixture.Source(made()).fingerprint("data.train")
    assert list(map(str, told.value.problems)) == [
        "data.train.sources.books.path: a.txt: no such file",
        "data.train.sources.web.path: b.jsonl: no such file",
    ]
