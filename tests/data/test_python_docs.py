"""Docstrings of packages, parsed and never imported."""

import platform
import sys
from importlib import metadata

import pytest
from data.reading import read as read_source

from launcher.config.errors import UserError
from launcher.data import python_docs

LONG = "Long enough to be kept, since it has more than forty characters"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user that cannot be imported."""
    folder = tmp_path / "unimportable"
    (folder / "inner").mkdir(parents=True)
    (folder / "tests").mkdir()
    source = f'''
        """{LONG}: module."""
        raise RuntimeError("imported")
        class A:
            """{LONG}: class.

            More of it.
            """
            def method(self):
                """{LONG}: method."""
                def hidden():
                    """{LONG}: inside a function."""
        async def f():
            """{LONG}: coroutine."""
        def short():
            """Too short."""
        x = """{LONG}: no docstring."""
    '''
    lines = [line.removeprefix(" " * 8) for line in source.strip().splitlines()]
    (folder / "__init__.py").write_text("\n".join(lines), encoding="utf-8")
    (folder / "inner" / "b.py").write_text(f'"""{LONG}: inner module."""\n', encoding="utf-8")
    (folder / "broken.py").write_text(f'"""{LONG}: template."""\n{{{{ no python }}}}', encoding="utf-8")
    (folder / "tests" / "test_it.py").write_text(f'"""{LONG}: test."""\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def read(*packages, columns=("text", "label"), **keys):
    config = python_docs.Config(packages=list(packages), **keys)
    return read_source(python_docs, config, *columns)


def fingerprint(*packages):
    return python_docs.Source(python_docs.Config(packages=list(packages))).fingerprint("data.train")


def test_docstrings_of_modules_classes_and_functions_are_read_in_order(package):
    kept = [row["text"].removeprefix(f"{LONG}: ") for row in read("unimportable")]
    assert kept == [
        "module.",
        "class.\n\nMore of it.",
        "method.",
        "inside a function.",
        "coroutine.",
        "inner module.",
    ]


def test_modules_are_never_imported(package):
    assert read("unimportable")
    assert fingerprint("unimportable")
    assert "unimportable" not in sys.modules


def test_the_label_is_the_package(package):
    assert {row["label"] for row in read("unimportable")} == {"unimportable"}
    assert {row["label"] for row in read("json", "textwrap")} == {"json", "textwrap"}


def test_the_modules_of_the_standard_library_are_its_labels():
    labels = {row["label"] for row in read("stdlib")}
    assert {"abc", "argparse", "ast", "asyncio"} <= labels
    assert not labels & {"test", "site-packages", "__pycache__"}


def test_only_columns_that_are_asked_for_are_given(package):
    assert read("unimportable", columns=("text",))[:1] == [{"text": f"{LONG}: module."}]


def test_short_docstrings_are_left_out_below_the_length_that_is_asked_for(package):
    assert "Too short." in [row["text"] for row in read("unimportable", shortest=5)]
    assert read("unimportable", shortest=100) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [("jsn", r"did you mean json\?"), ("zzzz", "pip install it"), ("os.path", ""), ("sys", ""), ("./a", "")],
)
def test_a_package_that_cannot_be_read_is_named(name, hint):
    with pytest.raises(UserError, match=rf"^data\.train\.packages: {name}: no Python package .*{hint}"):
        read("json", name)


def test_versions_are_in_the_fingerprint():
    found = fingerprint("numpy")
    assert platform.python_version() in found
    assert f"numpy {metadata.version('numpy')}" in found


def test_other_packages_have_another_fingerprint():
    assert len({fingerprint(*names) for names in (["json"], ["email"], ["json", "email"], ["numpy"])}) == 4


def test_the_content_of_a_module_of_ones_own_is_in_the_fingerprint(package):
    before = fingerprint("unimportable")
    assert fingerprint("unimportable") == before
    file = package / "inner" / "b.py"
    written = file.read_text(encoding="utf-8")
    file.write_text(written.replace("inner", "other"), encoding="utf-8")
    assert fingerprint("unimportable") != before
    file.write_text(written, encoding="utf-8")
    assert fingerprint("unimportable") == before


def test_what_is_remembered_of_a_package_goes_when_a_file_changes(package):
    before = read("unimportable")
    assert read("unimportable") == before
    (package / "inner" / "b.py").write_text(f'"""{LONG}: written again."""\n', encoding="utf-8")
    assert read("unimportable")[-1]["text"] == f"{LONG}: written again."


def test_a_docstring_with_half_a_character_is_left_out(package):
    (package / "half.py").write_text(f'"""{LONG}: half \\ud83d."""\n', encoding="utf-8")
    assert not [row for row in read("unimportable") if "half" in row["text"]]


@pytest.mark.parametrize("name", ["numpy", "pydantic", "pytest"])
def test_a_package_is_of_the_distributions_that_python_names(name):
    found = sorted(one.name for one in python_docs._distributions()[name])
    assert found == sorted(metadata.packages_distributions()[name])


def test_a_distribution_without_a_list_of_its_modules_is_found_by_its_files(tmp_path, monkeypatch):
    info = tmp_path / "of_files-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: of-files\nVersion: 1\n")
    (info / "RECORD").write_text("in_a_folder/__init__.py,,\nalone.py,sha256=x,9\ndata/table.csv,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = python_docs._distributions()
    assert [one.name for one in found["in_a_folder"] + found["alone"]] == ["of-files", "of-files"]
    assert "data" not in found
