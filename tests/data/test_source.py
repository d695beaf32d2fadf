"""Files, lines and columns: what sources share."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.data import _source
from launcher.data._source import FilesConfig, SourceConfig

properties = settings(deadline=None, max_examples=40)


def config(path, **keys):
    return FilesConfig(kind="files", path=path, **keys)


def names(path):
    return [file.name for file in _source.files(config(path), "data.train")]


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


def test_a_folder_is_no_file(here):
    with pytest.raises(UserError, match=r"^data\.train\.path: deep: no such file$"):
        names("deep")


def test_a_pattern_without_a_file_is_named(here):
    with pytest.raises(UserError, match=r"data\.train\.path: \*\.csv: no such file"):
        names(["a.txt", "*.csv"])


def test_the_fingerprint_does_not_know_the_names_of_the_files(here):
    before = _source.fingerprint_files(config("*.txt"), "data.train")
    (here / "a.txt").rename(here / "aa.txt")
    assert _source.fingerprint_files(config("a*.txt"), "data.train") != before  # b.txt is left out
    assert _source.fingerprint_files(config("*.txt"), "data.train") == before


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
        found.append(_source.fingerprint_files(config(str(folder / "*")), "data.train"))
    assert (found[0] == found[1]) == (one == other)


def test_a_byte_that_moves_from_one_file_to_the_next_changes_the_fingerprint(tmp_path):
    found = set()
    for cut in range(4):
        (tmp_path / "1.txt").write_bytes(b"abc"[:cut])
        (tmp_path / "2.txt").write_bytes(b"abc"[cut:])
        found.add(_source.fingerprint_files(config(str(tmp_path / "*")), "data.train"))
    assert len(found) == 4


def test_lines_are_numbered_from_one_and_have_no_ends(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("eins\r\nzwei é\n\nvier\u2028fünf".encode())
    assert list(_source.lines(file)) == [(1, "eins"), (2, "zwei é"), (3, ""), (4, "vier\u2028fünf")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo")
    assert list(_source.lines(file)) == [(1, "one"), (2, "\ufefftwo")]


@properties
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8), min_size=1))
def test_lines_are_those_that_were_written(tmp_path_factory, written):
    file = tmp_path_factory.mktemp("lines") / "a.txt"
    file.write_bytes("\n".join(["first", *written, "last"]).encode())
    assert [line for _, line in _source.lines(file)] == ["first", *written, "last"]


def test_a_line_that_is_not_utf_8_is_named_with_its_byte(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.txt:2: not UTF-8 \(byte 0xe9 at 4\): convert the file, .*iconv"):
        list(_source.lines(file))


ROW = {"body": "a text", "second": "another", "class": 3, "number": 7, "nothing": None}


def pick(columns, **names):
    return _source.pick(ROW, SourceConfig(kind="any", **names), columns, "rows.jsonl:4", "data.train")


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
    with pytest.raises(UserError, match=r"^rows\.jsonl:4: " + message):
        pick(columns, **names)
