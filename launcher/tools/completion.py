"""Completion of the words of a command line: recipes, profiles, runs, checkpoints, and overrides.

A shell starts the command for each completion, so that nothing here imports torch or a module of the user's. A shell
adds a space after the only candidate. Therefore a section such as `train.` is offered with its keys, and a key such as
`train.steps=` with its values.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from launcher.tools.recipe_keys import Key

Candidate = tuple[str, str]
"""A word and its description."""

_ENVIRONMENT = "_LAUNCHER_COMPLETE"
"""Variable that asks for a completion, such as complete_bash."""


def join_words(environment: MutableMapping[str, str]) -> None:
    """Let the word after a `=` be complete in bash's variables. Bash divides `key=value` into three words, and names
    the `=` as the current one if no value follows."""
    if environment.get(_ENVIRONMENT) != "complete_bash":
        return
    words, current = environment.get("COMP_WORDS", "").split("\n"), int(environment.get("COMP_CWORD", "0"))
    if words[current : current + 1] == ["="]:
        environment["COMP_WORDS"] = "\n".join([*words[: current + 1], "''"])
        environment["COMP_CWORD"] = str(current + 1)


def recipes(incomplete: str) -> list[str]:
    """Return the shipped recipes, and files of YAML."""
    return _files("recipes", incomplete)


def profiles(incomplete: str) -> list[str]:
    """Return the shipped cluster profiles, and files of YAML."""
    return _files("cluster", incomplete)


def shipped_recipes(incomplete: str) -> list[str]:
    """Return the shipped recipes."""
    from launcher.config import load

    return [file.stem for file in load.shipped("recipes") if file.stem.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Return run folders: those in runs/, or in the folder that the word begins with."""
    folder = incomplete.rpartition("/")[0] if "/" in incomplete else "runs"
    found = sorted(str(file.parent) for file in Path(folder).glob("*/recipe.yaml"))
    return [run for run in found if run.startswith(incomplete)]


def checkpoints(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of a run's checkpoints: latest, best and the steps."""
    from launcher.storage.run_dir import RunDir

    run = _word(ctx, "run") or next((word for word in ctx.args if not word.startswith("-")), "")
    names = ["latest", "best", *(str(saved.step) for saved in RunDir(Path(run)).whole())]
    return [name for name in names if name.startswith(incomplete)]


def overrides(ctx: typer.Context, incomplete: str) -> list[Candidate]:
    """Return keys of the recipe, those of the profile after `cluster.`, and the values of a key."""
    from launcher.tools import recipe_keys

    earlier = _joined(ctx.params.get("overrides") or [])
    before = earlier.pop() if earlier and earlier[-1].endswith("=") else ""  # bash gives a value as a separate word
    keys = recipe_keys.keys(_word(ctx, "recipe"), _word(ctx, "cluster") or "local", earlier)
    return [(word.removeprefix(before), what) for word, what in _candidates(before + incomplete, keys)]


def _candidates(word: str, keys: "Mapping[str, Key]") -> list[Candidate]:
    """Return the completions of `key.path=value`. A key without a rival comes with its values, and a section without a
    rival with its keys."""
    key, equals, value = word.partition("=")
    if equals:
        return [(f"{key}={one}", "") for one in keys[key].values if one.startswith(value)] if key in keys else []
    heads = dict[str, str]()
    for name in keys:
        if name.startswith(key):
            rest = name[len(key) :]
            head = key + rest.partition(".")[0] + ("." if "." in rest else "=")
            heads.setdefault(head, keys[name].description if head.endswith("=") else "")
    if len(heads) != 1:
        return list(heads.items())
    (only,) = heads
    values = _candidates(only, keys)
    return [(only, heads[only]), *values] if only.endswith("=") else values


def _joined(words: Iterable[str]) -> list[str]:
    """Join the words that bash has divided at each `=`."""
    found, inside = list[str](), False
    for word in words:
        if found and (word == "=" or inside):
            found[-1] += word
        else:
            found.append(word)
        inside = word == "="
    return found


def _files(folder: str, incomplete: str) -> list[str]:
    from launcher.config import load

    shipped = [file.stem for file in load.shipped(folder)]
    parent = incomplete.rpartition("/")[0] or ("/" if incomplete.startswith("/") else "")
    files = sorted(str(file) for ending in ("yaml", "yml") for file in Path(parent).glob(f"*.{ending}"))
    return [name for name in [*files, *shipped] if name.startswith(incomplete)]


def _word(ctx: typer.Context, name: str) -> str:
    value = ctx.params.get(name)
    return value if isinstance(value, str) else ""
