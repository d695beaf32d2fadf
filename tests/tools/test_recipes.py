"""`launcher recipes`: list and copy the shipped recipes."""

import pytest

from launcher.config import load
from launcher.config.errors import UserError
from launcher.tools import recipes

SHIPPED = {file.stem: file for file in load.shipped("recipes")}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("width", [80, 100])
def test_every_shipped_recipe_is_listed_with_what_it_is(printed, width):
    lines = printed(recipes.show, width)
    assert lines[0].split() == ["recipe", "what"]
    assert all(len(line) <= width for line in lines)
    listed = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert listed == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_starts_with_a_comment(name):
    first = SHIPPED[name].read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ")
    assert len(first) > 20


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_is_listed_with_a_whole_sentence(name):
    sentence = recipes.first_sentence(SHIPPED[name].read_text(encoding="utf-8"))
    assert sentence.endswith((".", "?", "!"))


def test_a_sentence_may_take_several_lines():
    assert recipes.first_sentence("# A run,\n# of two lines. More.\n# And more.\nname: a\n") == "A run, of two lines."
    assert recipes.first_sentence("name: a\n") == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_a_copy_is_the_same_recipe(name, here):
    target = recipes.copy(name, here)
    assert target == here / f"{name}.yaml"
    assert load.recipe(target).value == load.recipe(name).value


def test_a_copy_may_have_another_name(here):
    assert recipes.copy("quickstart-pretrain", here / "mine.yaml").is_file()


def test_an_existing_file_is_not_overwritten(here):
    for target in (here / "quickstart-pretrain.yaml", here / "mine.yaml"):
        target.write_text("mine", encoding="utf-8")
        to = here if target.stem in SHIPPED else target
        with pytest.raises(UserError, match=rf"^{target}: is there already \(name another file\)$"):
            recipes.copy("quickstart-pretrain", to)
        assert target.read_text(encoding="utf-8") == "mine"


def test_an_unknown_recipe_is_refused_with_the_known_ones(here):
    with pytest.raises(UserError, match=r"^nope: no shipped recipe of this name \(there are: .*quickstart-pretrain"):
        recipes.copy("nope", here)
    assert list(here.iterdir()) == []
