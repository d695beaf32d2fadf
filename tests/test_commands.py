"""The command line itself: help, the version, and keys that are written like options."""

import errno
import sys

import pytest
from typer.testing import CliRunner

from launcher import __main__, __version__, cli
from launcher.config.errors import UserError
from launcher.distributed import logs, output_streams, signals
from launcher.tools import command_exit

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
        command_exit.check_words(words.split())
    assert str(raised.value) == f"{word}: no such option; a key is changed without dashes: {right}"


@pytest.mark.parametrize(
    "words", ["run r.yaml optimizer.lr=1e-4", "plan r --ranks 2 --json", "run -- --a.b", "predict r --to a.b"]
)
def test_options_and_overrides_are_let_through(words):
    command_exit.check_words(words.split())


def called(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["launcher", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("recipes --copy mlp-mnist --to no/such/r.yaml", "no/such/r.yaml: cannot be used: no such file or directory"),
        ("recipes --copy mlp-mnist --to file/r.yaml", "file/r.yaml: cannot be used: not a directory"),
        ("plan folder.yaml", "folder.yaml: cannot be read: Is a directory"),
        ("plan quickstart-pretrain --cluster folder.yaml", "folder.yaml: cannot be read: Is a directory"),
        ("predict file --data file", "file: no run is there (it has no recipe.yaml)"),
        ("compare file", "file: no run is there (a run folder is named, such as runs/quickstart-pretrain)"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_used_is_one_line(monkeypatch, capsys, tmp_path, words, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.yaml").mkdir()
    assert called(monkeypatch, capsys, *words.split()) == (2, f"{what}\n")


@pytest.mark.parametrize("kind", [PermissionError, IsADirectoryError, NotADirectoryError, FileNotFoundError])
def test_whatever_command_meets_it(monkeypatch, capsys, tmp_path, kind):
    monkeypatch.chdir(tmp_path)
    number = {PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR, NotADirectoryError: errno.ENOTDIR}
    error = kind(number.get(kind, errno.ENOENT), "Not today", "some/file")

    def fail(**options):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert called(monkeypatch, capsys, "status") == (2, "some/file: cannot be used: not today\n")


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "app", lambda **options: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["launcher"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run r.yaml --via torchrn", "launcher run: Invalid value for '--via': 'torchrn' is not one of"),
        (
            "run r.yaml --ranks 0",
            "launcher run: Invalid value for '--ranks': Input should be greater than or equal to 1",
        ),
        ("plan", "launcher plan: Missing argument 'RECIPE' (--help)"),
        ("plna", "launcher: No such command 'plna'. Did you mean 'plan'? (--help)"),
        ("plan r.yaml --rnaks 3", "launcher plan: No such option: --rnaks (Possible options: --ranks) (--help)"),
    ],
)
def test_a_wrong_option_is_one_line(words, line, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["launcher", *words.split()])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    said = capsys.readouterr().err
    assert (raised.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(line)


@pytest.mark.parametrize(
    ("words", "listens", "lasting"),
    [
        (["run", "R"], True, True), (["--verbose", "run", "R"], True, True), (["--verbose", "export"], False, True),
        (["plan", "run"], False, False), (["--verbose", "plan", "run"], False, False), (["--help"], False, False),
        ([], False, False),
    ],
)  # fmt: skip
def test_options_before_the_command_change_nothing_about_signals_and_output(monkeypatch, words, listens, lasting):
    done = []
    monkeypatch.setattr(sys, "argv", ["launcher", *words])
    monkeypatch.setattr(signals, "listen", lambda: done.append("listen"))
    monkeypatch.setattr(signals, "ignore", lambda: done.append("ignore"))
    monkeypatch.setattr(output_streams, "set_up", lambda lasting: done.append(lasting))
    monkeypatch.setattr(logs, "set_up", lambda: None)
    monkeypatch.setattr(cli, "main", lambda: done.append("main"))
    __main__.main()
    assert done == (["listen", lasting, "main", "ignore"] if listens else [lasting, "main"])
