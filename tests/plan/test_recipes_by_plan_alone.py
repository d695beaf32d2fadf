"""Wrong recipes and profiles that a plan alone refuses, with file, line, key and hint, and right ones without an alarm.

Takes longer than 5 s: only real models, built for each right recipe, show that no check of one is wrong about another.
"""

import contextlib
import json
from pathlib import Path

import pytest
import support
from plan import corpus
from plan.corpus import Case

from launcher.commands import planning
from launcher.config import load
from launcher.config.errors import UserError
from launcher.plan import _model_spec_process, model_spec
from launcher.prepare import run_setup

LONG = {"data__max_length": 256, "train__max_tokens": 256}  # no text of the corpus is cut
BASES = {
    "mlm": support.mlm(**LONG), "texts": support.mlm(**LONG, model=None), "numbers": support.small(),
    "labels": support.classification(**LONG), "rows": support.classification(**LONG, model=None),
}  # fmt: skip
"""Recipes to inherit from: `texts` and `rows` have no model."""
WRONG, RIGHT = corpus.cases("wrong"), corpus.cases("right")
BY_COMMAND = ("a tab as indentation", "a base in a circle", "four mistakes at once", "a secret among the variables")
"""Wrong ones that are also given to the command itself."""


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    """A folder with recipes to inherit from, and data, right and wrong."""
    folder = support.corpus(tmp_path_factory.mktemp("recipes"))
    rows = [
        {
            "text": f"it is {word} {number}", "pair": "it was", "label": word, "number": 1.5, "names": [word],
            "target": word, "words": [str(number), word], "labels": ["O", "B-X"], "question": "what",
            "context": f"it is {word}", "answers": {"text": [word], "answer_start": [6]},
        }
        for number, word in enumerate(("red", "blue", "green") * 16)
    ]  # fmt: skip
    others = [{"text": f"a text of {n} words", "label": label} for n in range(20) for label in ("few", "some", "many")]
    write = {
        "held-out.jsonl": others,
        "rows.jsonl": rows,
        "multi-hot.jsonl": [{"text": "a b", "label": [0, 1, 1]}, {"text": "c d", "label": [1, 0, 0]}] * 9,
        "uneven.jsonl": [{"words": ["a", "b"], "labels": ["O"]}] * 18,
        "numbers.jsonl": [{"text": 3, "label": "x"}] * 18,
        "elsewhere.jsonl": [{"question": "a", "context": "b c", "answers": {"text": ["zz"], "answer_start": [9]}}] * 18,
    }
    for name, listed in write.items():
        (folder / name).write_text("\n".join(map(json.dumps, listed)) + "\n")
    (folder / "not.jsonl").write_text("text,label\na b,x\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "rows.csv").write_text("text,label\n" + "".join(f"a {n},x\nc {n},y\n" for n in range(16)))
    (folder / "semicolons.csv").write_text("text;label\n" + "a b;x\nc d;y\n" * 9)
    (folder / "wide.csv").write_text("text,label\n" + "a b,x,z\n" * 9)
    (folder / "utf16.csv").write_bytes(("text,label\n" + "a b,x\n" * 9).encode("utf-16"))
    for name, recipe in BASES.items():
        support.write(recipe, folder / f"{name}.yaml")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_CACHE", str(folder / "cache"))
        patch.setattr(model_spec, "_run_child", lambda question: _model_spec_process._answer(json.loads(question)))
        yield folder


@pytest.fixture
def written(here, request):
    """The case with its files, which are removed afterwards."""
    case: Case = request.param
    case.write(here)
    yield case
    for name in case.files:
        (here / name).unlink()


def options(case: Case) -> dict[str, object]:
    """The arguments of a case as the command gets them."""
    found: dict[str, object] = {"recipe": case.arguments[0], "overrides": []}
    words = iter(case.arguments[1:])
    for word in words:
        if word.startswith("--"):
            found[word[2:]] = int(value) if (value := next(words)).isdigit() else value
        else:
            found["overrides"].append(word)
    return found


def left(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without what a plan may keep in the cache."""
    cache = str(folder / "cache")
    return {name: text for name, text in support.tree(folder).items() if not name.startswith(cache)}


def ids(case: Case) -> str:
    return case.title.replace(" ", "-")


@pytest.mark.parametrize("written", WRONG, ids=ids, indirect=True)
def test_a_wrong_one_is_refused_with_its_line_and_a_hint(written, here):
    before = left(here)
    with pytest.raises(UserError) as refused:
        planning.plan(**options(written))
    assert sorted(str(refused.value).splitlines()) == sorted(written.expected)
    assert left(here) == before


@pytest.mark.parametrize("written", [case for case in WRONG if case.title in BY_COMMAND], ids=ids, indirect=True)
def test_the_command_answers_alike_and_exits_with_2(written, here):
    before = left(here)
    answer = support.launcher("plan", *written.arguments, code=2)
    assert sorted(answer.stderr.splitlines()) == sorted(written.expected)
    assert (answer.stdout, left(here)) == ("", before)


@pytest.mark.parametrize("written", RIGHT, ids=ids, indirect=True)
def test_a_right_one_raises_no_alarm(written, capsys):
    if written.prepared:
        run_setup.prepare(load.recipe(written.arguments[0]))
        capsys.readouterr()
    planning.plan(**options(written), json=True)
    plan = json.loads(capsys.readouterr().out)
    assert plan["warnings"] == []
    assert plan["notes"] == written.expected
    assert not written.prepared or plan["prepared"]


def test_they_are_as_many_as_claimed():
    assert len(WRONG) >= 100 and len(RIGHT) >= 60
