"""Paths as users write them, and as no system has them."""

import os
from pathlib import Path

import pytest
import support

from launcher.config.atomic_files import expanded, is_dir, is_file, write, write_aside
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.prepare import prepared_data

NOWHERE = ("~nobody-of-this-name/x", "x" * 5000)


@pytest.mark.parametrize("name", NOWHERE)
def test_a_path_that_nothing_can_have_is_no_file_and_no_folder(name):
    assert expanded(name) == Path(name)
    assert not is_file(Path(name)) and not is_dir(Path(name))


def test_the_home_folder_is_written_as_usual(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a") == tmp_path / "a"
    assert is_dir(expanded("~")) and not is_file(expanded("~"))


@pytest.mark.parametrize("name", NOWHERE)
@pytest.mark.parametrize(
    ("part", "kind", "key"),
    [
        ("data__train", "text", "path"), ("data__train", "hub", "name"), ("data__train", "arrow", "path"),
        ("data__train", "mnist", "path"), ("tokenizer", "pretrained", "name"), ("model", "pretrained", "name"),
    ],
)  # fmt: skip
def test_the_identity_of_data_is_had_or_refused_in_a_sentence(workspace, name, part, kind, key):
    changes = {"tokenizer": None} if part == "model" else {}
    recipe = Recipe.model_validate(support.mlm(**{**changes, part: {"kind": kind, key: name}}))
    try:
        assert prepared_data.identity(recipe)
    except UserError as error:
        assert "no such" in str(error) or "none of these files is there" in str(error)


def test_writers_of_one_file_never_share_a_temporary_name(tmp_path, monkeypatch):
    """Also in two containers whose processes have the same number."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    file = tmp_path / "file"
    with write_aside(file) as first, write_aside(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("flushed", [True, False])
def test_a_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch, flushed):
    file, done = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(Path(f"/proc/self/fd/{handle}").readlink()))
    write(file, "text", flushed)
    assert [path.name.startswith(".file.") for path in done] == [True] * flushed
    assert file.read_text() == "text"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    file = tmp_path / "file"
    write(file, "before")
    with pytest.raises(KeyError), write_aside(file) as aside:
        aside.write_text("half")
        raise KeyError
    with write_aside(file):
        pass
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(file, "before")]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        write(tmp_path / "nowhere" / "file", "text")
    assert raised.value.filename == str(tmp_path / "nowhere" / "file")
