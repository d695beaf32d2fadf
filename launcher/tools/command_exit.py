"""Execution of a command line, up to the exit code. No user error ends in a traceback."""

import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from launcher.config import env_vars
from launcher.config.atomic_files import check_current_folder
from launcher.config.errors import UserError, of_path, shown
from launcher.distributed import output_streams
from launcher.distributed.exit_codes import FAILED, INTERRUPTED, INVALID_INPUT, STOPPED
from launcher.distributed.signals import StopRequested, say

if TYPE_CHECKING:
    from launcher.launch.execute import Outcome

_UsageError: Any = typer.BadParameter.__mro__[1]
"""The exception for a call with wrong options: the class of click, or its copy in newer versions of typer."""

_KEY = re.compile(r"--(?P<key>\w+(?:\.\w+)+|seed|seeds|name)(?:=(?P<value>.*))?", re.DOTALL)
"""A recipe or profile key that is written like an option."""
_OPTIONS = {"sweep": ("seeds",), "simulate": ("seed",)}
"""Commands with options of such names."""


def execute(app: Callable[..., object]) -> NoReturn:
    """Run the command that sys.argv names, and exit with its code."""
    try:
        check_current_folder()
        _guard_imports()
        check_words(sys.argv[1:])
        sys.exit(_call(app))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(INVALID_INPUT)
    except StopRequested as error:
        say(str(error))
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        say(f"launcher {' '.join(sys.argv[1:2])}: interrupted before it was done")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # as under `| head`
        sys.exit(FAILED)
    except Exception as error:
        from launcher.storage import disk_full

        full = str(error) if isinstance(error, disk_full.DiskFull) else disk_full.unexpected(error)
        line = full or of_path(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(FAILED if full else INVALID_INPUT)


def leave(outcome: "Outcome") -> NoReturn:
    """Print the user errors that the ranks have found, and exit with the ranks' code."""
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    raise typer.Exit(outcome.code)


def recipe_of(bundle: Path | None, recipe: str | None, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Return the recipe file to run, and its overrides. A bundle becomes the cache of this process and of the ranks.
    Raises UserError."""
    if bundle is None:
        if recipe is None:
            raise UserError("RECIPE: missing (a recipe file, the name of a shipped one, or --from BUNDLE)")
        return recipe, list(overrides)
    if recipe is not None and "=" not in recipe:
        raise UserError(f"{recipe}: a bundle has a recipe of its own (leave it out; key=value overrides it)")
    from launcher.prepare import bundle as bundles

    file = bundles.recipe_of(bundle)
    os.environ[env_vars.CACHE] = str(bundle.absolute())
    return str(file), [*([recipe] if recipe else []), *overrides]


def check_words(words: Sequence[str]) -> None:
    """Raise UserError for a recipe key that is written like an option."""
    command = next((word for word in words if not word.startswith("-")), "")
    for number, word in enumerate(itertools.takewhile(lambda word: word != "--", words)):
        found = _KEY.fullmatch(word)
        if found and found["key"] not in _OPTIONS.get(command, ()):
            after = words[number + 1] if number + 1 < len(words) and found["value"] is None else None
            value = found["value"] or (after if after is not None and not after.startswith("-") else "VALUE")
            what = f"no such option; a key is changed without dashes: {found['key']}={value}"
            raise UserError(f"{shown(word)}: {shown(what)}")


def _guard_imports() -> None:
    """Prevent child processes from importing modules of the current folder, if it is a run folder or a bundle."""
    from launcher.config import code_origin

    if code_origin.artefact(Path.cwd()):
        os.environ["PYTHONSAFEPATH"] = "1"


def _call(app: Callable[..., object]) -> int:
    """Run the command, flush its output, and return its exit code. Raises UserError for wrong options and arguments,
    OSError if the output cannot be written."""
    try:
        code = app(prog_name="launcher", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _UsageError as error:
        if not (message := error.format_message()):  # help was printed, because no command is named
            return INVALID_INPUT
        command = error.ctx.command_path if error.ctx is not None else "launcher"
        raise UserError(f"{command}: {message.replace('Value error, ', '').rstrip('.')} (--help)") from None
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            output_streams.drop_output()
            raise
