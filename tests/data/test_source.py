"""Files of sources, and the names of columns."""

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.data import _columns, _files, _source
from launcher.data._source import FilesConfig, SourceConfig

properties = settings(deadline=None, max_examples=40)


def config(path, **keys):
    return FilesConfig(kind="files", path=path, **keys)


def names(path):
    return [file.name for file in _files.files(config(path), "data.train")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/er/d.txt", "a.md"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8")
    return tmp_path


def test_files_are_sorted_and_each_is_there_once(here):
    assert names(["b.txt", "*.txt", "a.txt"]) == ["a.txt", "b.txt"]


def test_two_stars_reach_every_folder_below(here):
    assert names("**/*.txt") == ["a.txt", "b.txt", "c.txt", "d.txt"]


def test_a_tilde_is_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert names("~/a.*") == ["a.md", "a.txt"]


_ODD = ("set[1]", "a*b", "what?", "[", "x]", "[!a]", "{a,b}", "**")


@pytest.mark.parametrize("name", _ODD)
def test_what_exists_under_its_name_is_no_glob(here, name):
    for path in (f"{name}.txt", f"{name}/d.txt", f"{name}/e.txt"):
        file = here / "odd" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path, encoding="utf-8")
    for decoy in ("set1", "aab", "whatx", "b", "a"):
        (here / "odd" / decoy).mkdir()
        (here / "odd" / decoy / "d.txt").write_text("decoy", encoding="utf-8")

    def found(path):
        return [str(file.relative_to(here)) for file in _files.files(config(str(path)), "data.train")]

    assert found(here / "odd" / f"{name}.txt") == [f"odd/{name}.txt"]
    assert found(here / "odd" / name / "d.txt") == [f"odd/{name}/d.txt"]
    assert found(here / "odd" / name / "*.txt") == [f"odd/{name}/d.txt", f"odd/{name}/e.txt"]
    os.chdir(here / "odd" / name)
    assert names("*.txt") == ["d.txt", "e.txt"]


def test_brackets_are_a_glob_where_nothing_has_that_name(here):
    assert names("[ab].txt") == ["a.txt", "b.txt"]
    assert names("d[e]ep/*.txt") == ["c.txt"]


def test_a_folder_is_no_file(here):
    with pytest.raises(UserError, match=r"^data\.train\.path: deep: no such file$"):
        names("deep")


def test_a_pattern_without_a_file_is_named(here):
    with pytest.raises(UserError, match=r"data\.train\.path: \*\.csv: no such file"):
        names(["a.txt", "*.csv"])


def test_the_fingerprint_does_not_know_the_names_of_the_files(here):
    before = _files.fingerprint_files(config("*.txt"), "data.train")
    (here / "a.txt").rename(here / "aa.txt")
    assert _files.fingerprint_files(config("a*.txt"), "data.train") != before  # b.txt is left out
    assert _files.fingerprint_files(config("*.txt"), "data.train") == before


@properties
@given(
    st.lists(st.binary(max_size=6), min_size=1, max_size=4),
    st.lists(st.binary(max_size=6), min_size=1, max_size=4),
)
def test_fingerprints_are_equal_exactly_where_the_files_bytes_are(tmp_path_factory, one, other):
    found = []
    for contents in (one, other):
        folder = tmp_path_factory.mktemp("files")
        for number, content in enumerate(contents):
            (folder / f"{number}.txt").write_bytes(content)
        found.append(_files.fingerprint_files(config(str(folder / "*")), "data.train"))
    assert (found[0] == found[1]) == (one == other)


def test_a_byte_that_moves_from_one_file_to_the_next_changes_the_fingerprint(tmp_path):
    found = set()
    for cut in range(4):
        (tmp_path / "1.txt").write_bytes(b"abc"[:cut])
        (tmp_path / "2.txt").write_bytes(b"abc"[cut:])
        found.add(_files.fingerprint_files(config(str(tmp_path / "*")), "data.train"))
    assert len(found) == 4


@pytest.fixture
def hashed(here, monkeypatch):
    """The files that are read for their hashes, in order. All files are old enough for the cache."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(here / "cache"))
    monkeypatch.setattr(_files, "_MTIME_RESOLUTION", -60)
    seen, opened = [], Path.open

    def spy(path, mode="r", *rest, **keys):
        if mode == "rb" and path.absolute().parent == here:  # other threads of this process read files too
            seen.append(path.name)
        return opened(path, mode, *rest, **keys)

    monkeypatch.setattr(Path, "open", spy)
    return seen


def notes(here):
    return list((here / "cache" / "fingerprints").glob("*"))


def test_a_file_is_hashed_once_until_it_changes(here, hashed):
    found = [_files.fingerprint_files(config(["a.txt", "b.txt"]), "data.train") for _ in range(2)]
    assert (found[0], hashed) == (found[1], ["a.txt", "b.txt"])
    (here / "b.txt").write_text("B.txt", encoding="utf-8")
    assert _files.fingerprint_files(config(["a.txt", "b.txt"]), "data.train") != found[0]
    assert hashed == ["a.txt", "b.txt", "b.txt"]
    assert len(notes(here)) == 2


def test_a_file_that_was_put_in_the_place_of_another_is_hashed_again(here, hashed):
    before, stat = _files.file_hash(here / "a.txt"), (here / "a.txt").stat()
    (here / "other").write_text("A.txt", encoding="utf-8")
    os.utime(here / "other", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (here / "other").replace(here / "a.txt")
    assert _files.file_hash(here / "a.txt") != before


def test_a_file_that_was_just_written_is_not_remembered(here, hashed, monkeypatch):
    monkeypatch.setattr(_files, "_MTIME_RESOLUTION", 2.0)
    _files.file_hash(here / "a.txt")
    assert notes(here) == []
    old = time.time() - 3
    os.utime(here / "a.txt", (old, old))
    _files.file_hash(here / "a.txt")
    assert len(notes(here)) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"hash": "0"}', None], ids=repr)
def test_a_damaged_note_is_never_believed(here, hashed, damage):
    right = _files.file_hash(here / "a.txt")
    (note,) = notes(here)
    whole = note.read_text(encoding="utf-8")
    wrong = right.replace(right[0], "0" if right[0] != "0" else "1")
    note.write_text(whole.replace(right, wrong) if damage is None else damage, encoding="utf-8")
    assert _files.file_hash(here / "a.txt") == right
    assert note.read_text(encoding="utf-8") == whole


def test_a_cache_that_cannot_be_written_costs_time_only(here, hashed, monkeypatch):
    (here / "no-folder").touch()
    monkeypatch.setenv("LAUNCHER_CACHE", str(here / "no-folder"))
    assert _files.file_hash(here / "a.txt") == _files.file_hash(here / "a.txt")


ROW = {"body": "a text", "second": "another", "class": 3, "number": 7, "nothing": None}


def pick(columns, **names):
    return _source.canonical_row(ROW, SourceConfig(kind="any", **names), columns, lambda: "rows.jsonl:4", "data.train")


def test_columns_are_picked_under_their_canonical_names():
    names = {"text": "body", "text_pair": "second", "label": "class"}
    picked = pick(("text", "text_pair", "label"), **names)
    assert picked == {"text": "a text", "text_pair": "another", "label": 3}


def test_a_pair_is_left_out_where_none_is_named():
    assert pick(("text", "text_pair"), text="body") == {"text": "a text"}


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        (
            ("text",),
            {},
            r"data\.train\.text: no column 'text' \(there are: body, second, class, number, nothing\)",
        ),
        (("label",), {}, r"data\.train\.label: no column 'label' \(there are: body, "),
        (("text",), {"text": "number"}, r"data\.train\.text: column 'number' is no text but int"),
        (("text",), {"text": "nothing"}, r"data\.train\.text: column 'nothing' is no text but NoneType"),
        (("label",), {"label": "nothing"}, r"data\.train\.label: column 'nothing' is empty"),
    ],
    ids=["no text", "no label", "a number", "nothing", "empty label"],
)
def test_a_column_that_cannot_be_used_is_told_with_its_place(columns, names, message):
    assert re.search(r"^rows\.jsonl:4: " + message, str(pick(columns, **names)))


def test_a_text_that_is_too_long_is_told(monkeypatch):
    monkeypatch.setattr(_columns, "MAX_ROW", 5)
    assert "column 'body' has 6 characters, more than the 5 that a row may have" in str(pick(("text",), text="body"))


def test_every_column_that_a_table_lacks_is_told_with_those_there_are():
    with pytest.raises(UserError) as told:
        _source.check_columns(config("a", text_pair="b"), ("text", "text_pair"), ["x", "y"], "a.csv", "data.train")
    assert list(map(str, told.value.problems)) == [
        "data.train.text: a.csv: no column 'text' (there are: x, y)",
        "data.train.text_pair: a.csv: no column 'b' (there are: x, y)",
    ]
