"""Recipes and profiles as users write them, wrong and right, in wrong.txt and right.txt.

A block begins with `=== title`. Its lines are recipe.yaml, up to `>>> name` and the lines of another file. `#! message`
at the end of a line is what a plan has to answer about that line, and `!! message` an answer about none. `$ words` are
the arguments of `launcher plan`; without them, they are `recipe.yaml --ranks 2`. `% key` names what is done before.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass
class Case:
    """A recipe with what belongs to it. `files`: name -> text; `expected`: lines of the answer, sorted."""

    title: str
    files: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=lambda: ["recipe.yaml", "--ranks", "2"])
    expected: list[str] = field(default_factory=list)
    prepared: bool = False

    def write(self, folder: Path) -> None:
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")


def cases(name: str) -> list[Case]:
    blocks = re.split(r"^=== ", (HERE / f"{name}.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [_case(block) for block in blocks]


def _case(block: str) -> Case:
    title, *lines = block.splitlines()
    case, file, written = Case(title), "recipe.yaml", dict[str, list[str]]()
    for line in lines:
        if line.startswith(">>> "):
            file = line[4:]
        elif line.startswith("$ "):
            case.arguments = shlex.split(line[2:])
        elif line.startswith("!! "):
            case.expected.append(line[3:])
        elif line == "% prepare":
            case.prepared = True
        else:
            text, *messages = line.split(" #! ")
            written.setdefault(file, []).append(text.rstrip())
            case.expected += [f"{file}:{len(written[file])}: {message}" for message in messages]
    case.files = {name: "\n".join(texts) + "\n" for name, texts in written.items()}
    return case
