"""The folder of an export, which appears complete or not at all."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from launcher.config.errors import UserError
from launcher.config.format import human
from launcher.storage import disk_full
from launcher.storage.partial_folder import filling

_UNITS = {"": 1, "b": 1, **{f"{letter}b": 1000**n for n, letter in enumerate("kmgt", start=1)}}
_UNITS |= {f"{letter}ib": 1024**n for n, letter in enumerate("kmgt", start=1)}
_ANOTHER = "name another folder: --to"


def shard_bytes(text: str) -> int:
    """Return a size such as 1GiB, 500MB or 1000000 in bytes. Raises UserError for other texts."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.lower())
    size = int(float(match[1]) * _UNITS.get(match[2], 0)) if match else 0
    if size < 1:
        raise UserError(f"--shard-size: {text}: not a size (such as 1GiB or 500MB)")
    return size


def vacant(to: Path) -> Path:
    """Return the absolute path of a folder that does not exist yet, or is empty. Raises UserError for any other
    folder."""
    final = to.resolve()
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise UserError(f"{to}: is there already, and not empty ({_ANOTHER})")
    return final


def check_space(size: int, final: Path, to: Path) -> None:
    """Raise UserError if the disk has less than `size` bytes free."""
    free = shutil.disk_usage(next(parent for parent in final.parents if parent.exists())).free
    if size > free:
        raise UserError(f"{to}: {human(size)} to write, {human(free)} free on its disk ({_ANOTHER})")


@contextmanager
def staged(final: Path, to: Path) -> Iterator[Path]:
    """Yield a hidden folder to fill. It is renamed to `final` when the block ends without an error, else removed.

    `to`: the path that the user gave, for messages. Raises UserError if the folder cannot be created, if the disk is
    full, or if another export has created `final` in the meantime.
    """
    with ExitStack() as stack:
        try:
            aside = stack.enter_context(filling(final))
        except OSError as error:
            raise UserError(f"{to}: cannot be made: {error.strerror}: {error.filename}") from None
        reported = partial(disk_full.reported, aside, advice=f"make room there, or {_ANOTHER}", kind=UserError)
        with reported():
            yield aside
        try:
            with reported():
                stack.close()
        except OSError as error:
            raise UserError(f"{to}: cannot be made: {error.strerror} ({_ANOTHER})") from None


def share_mode(folder: Path) -> None:
    """Give all files the mode of the model card, because safetensors lets only the owner read its files."""
    mode = (folder / "README.md").stat().st_mode
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(mode)
