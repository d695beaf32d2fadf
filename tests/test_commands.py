"""The command line itself: help, the version, and keys that are written like options."""

import pytest
from typer.testing import CliRunner

from launcher import __version__, cli
from launcher.config.errors import UserError

COMMANDS = sorted(command.callback.__name__ for command in cli.app.registered_commands)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_names_no_type_of_a_flag(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(cli.app, [*command.split(), "--help"], terminal_width=80)
    assert done.exit_code == 0
    assert "bool" not in done.output
    assert all(len(line) <= 80 for line in done.output.splitlines())
    assert "[[" not in done.output


def test_the_version_is_printed():
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"launcher {__version__}\n")


@pytest.mark.parametrize(
    ("words", "word", "right"),
    [
        ("run r.yaml --optimizer.lr 1e-4", "--optimizer.lr", "optimizer.lr=1e-4"),
        ("plan r --train.steps=5", "--train.steps=5", "train.steps=5"),
        ("plan r --seed", "--seed", "seed=VALUE"),
        ("plan r --cluster.nodes --ranks 2", "--cluster.nodes", "cluster.nodes=VALUE"),
    ],
)
def test_a_key_like_an_option_is_answered_with_how_it_is_written(words, word, right):
    with pytest.raises(UserError) as raised:
        cli._check_words(words.split())
    assert str(raised.value) == f"{word}: no such option; a key is changed without dashes: {right}"


@pytest.mark.parametrize(
    "words", ["run r.yaml optimizer.lr=1e-4", "plan r --ranks 2 --json", "run -- --a.b", "predict r --to a.b"]
)
def test_options_and_overrides_are_let_through(words):
    cli._check_words(words.split())
