"""Bundles, used without the sources and without a network."""

import json
import os
import shutil
from pathlib import Path

import pytest
import support

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import TrainTokenizer
from launcher.prepare import bundle, tokenizer


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """A bundle of a small recipe, without its corpus."""
    home = tmp_path_factory.mktemp("home")
    support.corpus(home)
    recipe = support.mlm("carried", data__train__path=str(home / "corpus.txt"))
    file = support.write(recipe, home / "recipe.yaml")
    support.launcher("prepare", file, "--to", home / "bundle")
    (home / "corpus.txt").unlink()
    return home


@pytest.fixture
def away(carried, tmp_path, monkeypatch):
    """Change to a folder with the bundle alone, and an empty cache."""
    shutil.copytree(carried / "bundle", tmp_path / "bundle")
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_from_a_bundle_needs_neither_its_sources_nor_a_cache(away):
    support.launcher("run", "--from", "bundle", "--ranks", 2, "train.steps=3")
    assert support.steps("runs/carried").keys() == {1, 2, 3}
    assert not (away / "empty").exists()
    support.launcher("run", "--from", "bundle", "--ranks", 1, "name=other", "train.steps=3")
    data = [{step: record["data"] for step, record in support.steps(f"runs/{n}").items()} for n in ("carried", "other")]
    assert data[0] == data[1]


def test_what_is_no_part_of_the_data_may_be_overridden_and_the_rest_is_told(away):
    done = support.launcher("run", "--from", "bundle", "data.max_length=16", code=2)
    assert "data: the bundle" in done.stderr
    assert "prepared otherwise" in done.stderr
    assert not (away / "runs").exists()


def test_a_recipe_beside_a_bundle_and_a_folder_that_is_none_are_refused(away):
    assert "has a recipe of its own" in support.launcher("run", "recipe.yaml", "--from", "bundle", code=2).stderr
    assert "no bundle is there" in support.launcher("run", "--from", "nowhere", code=2).stderr
    assert "RECIPE: missing" in support.launcher("run", code=2).stderr


def test_a_bundle_never_takes_the_place_of_something(carried):
    done = support.launcher("prepare", carried / "recipe.yaml", "--to", carried, code=2)
    assert "--to" in done.stderr


def test_a_run_that_the_model_comes_from_is_carried_along(workspace, monkeypatch, tmp_path):
    parent = support.write(support.mlm("parent", train__steps=2), "parent.yaml")
    support.launcher("run", parent, "--ranks", 1)
    child = support.classification("child", model={"kind": "run", "run": "runs/parent"}, tokenizer=None, train__steps=2)
    support.launcher("prepare", support.write(child, "child.yaml"), "--to", tmp_path / "bundle")
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    support.launcher("run", "--from", tmp_path / "bundle", "--ranks", 1)
    assert support.steps("runs/child").keys() == {1, 2}
    assert (
        "weights taken from"
        in support.launcher("run", "--from", tmp_path / "bundle", "name=again", "sinks=[console]").stdout
    )


def test_folders_of_a_tokenizer_and_of_weights_are_carried_along_however_they_are_named(workspace, monkeypatch):
    from transformers import BertConfig, BertModel

    words = tokenizer.train(TrainTokenizer(vocab_size=90), Path("corpus.txt").read_text().splitlines)
    words.save_pretrained("words")
    shape = {key: value for key, value in support.TINY.items() if key != "dropout"}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained("weights")
    carried = support.mlm(
        "carried", model={"kind": "pretrained", "name": "weights"}, train__steps=2,
        tokenizer={"kind": "pretrained", "name": "./words"},
    )  # fmt: skip
    support.launcher("prepare", support.write(carried), "--to", "bundle")
    Path("away").mkdir()
    shutil.move("bundle", "away")
    monkeypatch.chdir("away")
    support.launcher("run", "--from", "bundle", "--ranks", 1)
    assert support.steps("runs/carried").keys() == {1, 2}


def test_the_folder_that_one_is_in_may_become_the_bundle(workspace, tmp_path, monkeypatch):
    file = support.write(support.mlm("here"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    support.launcher("prepare", f"../{file}", "data.train.path=../corpus.txt", "--to", ".")
    assert bundle.recipe_of(tmp_path / "empty").is_file()


def test_a_bundle_that_cannot_be_written_is_told_and_leaves_nothing(workspace, tmp_path):
    (tmp_path / "file").touch()
    done = support.launcher("prepare", support.write(support.mlm("none")), "--to", "file/bundle", code=2)
    assert "--to" in done.stderr
    assert "cannot be written" in done.stderr


def test_one_that_was_cut_off_is_none(tmp_path):
    (tmp_path / "prepared").mkdir()
    with pytest.raises(UserError, match="no bundle is there"):
        bundle.recipe_of(tmp_path)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A false bundle, in a folder with a secret beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prepared" / "elsewhere").mkdir(parents=True)
    (tmp_path / "bundle" / "prepared" / "abc").mkdir(parents=True)
    (tmp_path / "bundle" / "recipe.yaml").touch()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps({"data": "x", "prepared": "abc"}))
    return Path("bundle")


AGAIN = "(`launcher prepare R --to FOLDER` makes one)"


def refused(there: Path) -> str:
    """Return the message that refuses a bundle."""
    with pytest.raises(UserError) as error:
        bundle.recipe_of(there)
    (line,) = str(error.value).splitlines()
    return line


def test_a_whole_bundle_may_have_links_within_itself(there):
    (there / "link").symlink_to("prepared/abc")
    assert bundle.recipe_of(there) == there / "recipe.yaml"


NAME = "prepared: should be a name without a path"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("{}", "data: missing"),
        ('{"data": 1}', "data: should be a valid string"),
        ('{"data": "x"}', "prepared: missing"),
        ('{"data": "x", "prepared": ["abc"]}', "prepared: should be a valid string"),
        ('{"data": "x", "prepared": "../.."}', NAME),
        ('{"data": "x", "prepared": "../../prepared/elsewhere"}', NAME),
        ('{"data": "x", "prepared": ".."}', NAME),
        ('{"data": "x", "prepared": ""}', NAME),
        ('{"data": "x", "prepared": "/etc"}', NAME),
        ('{"data": "x", "prepared": "a\\u0000b"}', "prepared: has a control character"),
        ('{"data": "x", "prepared": "other"}', "prepared: no folder other is in bundle/prepared"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(there, monkeypatch, content, what):
    (there / "bundle.json").write_text(content)
    told = f"bundle/bundle.json: damaged: {what} {AGAIN}"
    assert refused(there) == told
    monkeypatch.setenv("LAUNCHER_CACHE", "bundle")
    with pytest.raises(UserError) as error:
        bundle.identity(Recipe.model_validate(support.mlm()))
    assert str(error.value) == told


@pytest.mark.parametrize("to", ["/etc", "../prepared", "nowhere/../../prepared"])
def test_a_link_that_leads_out_of_a_bundle_is_refused(there, to):
    link = there / "models" / "mine"
    link.parent.mkdir()
    link.symlink_to(os.path.join("..", to))  # noqa: PTH118 (an absolute one replaces what is before it)
    assert refused(there) == f"{link}: damaged: a link that leads out of bundle {AGAIN}"


def test_a_prepared_folder_that_is_a_link_to_elsewhere_is_refused(there):
    (there / "prepared" / "abc").rmdir()
    (there / "prepared" / "abc").symlink_to("../../prepared/elsewhere")
    assert "a link that leads out of bundle" in refused(there)


def test_a_bundle_without_a_recipe_is_refused(there):
    (there / "recipe.yaml").unlink()
    assert refused(there) == f"bundle/recipe.yaml: damaged: it is missing {AGAIN}"


def test_the_command_refuses_a_damaged_bundle(there):
    (there / "bundle.json").write_text("[1]")
    done = support.launcher("run", "--from", "bundle", "name=b", code=2)
    assert done.stderr == f"bundle/bundle.json: damaged: not a JSON object {AGAIN}\n"
