"""The how-tos: their commands run in order, in a folder that has what the page assumes."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import support
import test_docs
from support import recipe_data

PAGES = sorted(Path(page).name for page in test_docs.HOW_TOS if test_docs.commands(page))
FILES = re.compile(r"^(?:# ([\w-]+\.yaml)\n|\"\"\"([\w/]+\.py):)")
SHORT = {
    "encoder.yaml": ["train.steps=4", "model.hidden_size=32", "model.intermediate_size=64", "tokenizer.vocab_size=300"],
    "reviews.yaml": [],
}
"""Overrides that make the run of a recipe short. Other recipes start from a small model in the place of BERT."""


def blocks_of(page: str) -> dict[str, str]:
    """The files that a page shows, by the name in their first line."""
    texts = [text for kind in ("yaml", "python") for text in test_docs.blocks(f"docs/how-to/{page}", kind)]
    found = {text: FILES.match(text) for text in texts}
    return {match[1] or match[2]: text for text, match in found.items() if match is not None}


def shorter(words: Sequence[str]) -> list[str]:
    """A command with the overrides of its recipe, before its options."""
    recipe = next((word for word in words if word in SHORT), None)
    takes = words[1] in ("plan", "prepare", "run", "debug", "submit", "parity") and recipe is not None
    return [*words, *(SHORT[recipe] if takes and recipe is not None else [])]


def run(words: Sequence[str]) -> None:
    support.launcher(*shorter(words)[1:], timeout=test_docs.TIMEOUT)


def plan(words: Sequence[str]) -> None:
    run(["launcher", "plan", *words[2:]])


def dry_run(words: Sequence[str]) -> None:
    run([*words, *([] if "--dry-run" in words else ["--dry-run"])])


def take_defaults(words: Sequence[str]) -> None:
    run([*words, "--yes"])


SUBSTITUTES: list[tuple[str, Callable[[Sequence[str]], None], str]] = [
    ("make setup", test_docs.make, "installs"),
    (r"\. ", test_docs.activate, "changes the shell that it is typed in"),
    ("launcher new", take_defaults, "asks: tests/tools/new types the answers"),
    ("launcher submit", dry_run, "needs Slurm: tests/slurm submits to a real one"),
    ("launcher (status|stop|cancel)", test_docs.parse, "needs a job: tests/slurm"),
    (r"launcher run .*--cluster \./pair", plan, "needs two hosts: tests/schedulers starts a real sshd"),
    ("torchrun", test_docs.torchrun, "needs two hosts: tests/test_starts.py starts ranks by hand"),
]
"""Commands that do not run as they stand: a pattern, what runs in their place, and why."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tables of texts and labels, a corpus, a small BERT, and the files of all pages."""
    monkeypatch.chdir(tmp_path)
    recipe_data.table(Path("reviews.csv"), 200)
    recipe_data.table(Path("new.csv"), 10, seed=1)
    Path("corpus").mkdir()
    lines = (support.corpus(tmp_path, documents=120) / "corpus.txt").read_text()
    Path("corpus", "all.txt").write_text(lines.replace("\n", "\n\n"))
    recipe_data.encoder(Path("bert"))
    for page in PAGES:
        for name, text in blocks_of(page).items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text.replace("google-bert/bert-base-uncased", "./bert"))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_order(page: str, folder: Path) -> None:
    """Some 10 s a page: nothing else runs several commands on the same files as a reader does."""
    for line in test_docs.commands(f"docs/how-to/{page}"):
        replacement = next((substitute for pattern, substitute, _ in SUBSTITUTES if re.match(pattern, line)), run)
        replacement(shlex.split(line.replace("google-bert/bert-base-uncased", "./bert")))


def test_every_substitute_is_used() -> None:
    lines = [line for page in PAGES for line in test_docs.commands(f"docs/how-to/{page}")]
    assert [pattern for pattern, *_ in SUBSTITUTES if not any(re.match(pattern, line) for line in lines)] == []


def test_the_first_how_to_needs_at_most_eight_commands() -> None:
    assert len(test_docs.commands("docs/how-to/csv-to-classifier.md")) <= 8
