"""How a rank ended, in a file that its launcher reads.

The exit code is not enough: it has neither the mistakes of a user nor the reason of an early end, and torchrun passes
on success and failure only.
"""

import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from launcher.config.atomic_files import write as write_text
from launcher.distributed.signals import StopReason


class RankEnd(TypedDict):
    """The end of a rank. `problems`: mistakes of the user. `error`, `traceback`: empty if it raised no error."""

    code: int
    reason: int
    problems: list[str]
    error: str
    traceback: str


def write(
    folder: Path,
    rank: int,
    code: int,
    reason: StopReason,
    problems: Sequence[object] = (),
    error: BaseException | None = None,
) -> None:
    """Write how this rank ended into the folder of its start. If the disk is full, no file is written."""
    end = RankEnd(code=code, reason=int(reason), problems=list(map(str, problems)), error="", traceback="")
    if error is not None:
        end["error"] = f"{type(error).__name__}: {error}"
        end["traceback"] = "".join(traceback.format_exception(error))
    with suppress(OSError):
        write_text(folder / _file_name(rank), json.dumps(end), flushed=False)


def read(folder: Path) -> dict[int, RankEnd]:
    """Return the ends that were reported in the folder of a start, by rank."""
    files = folder.glob(_file_name("*"))
    ends = {int(file.stem.rpartition("-")[2]): json.loads(file.read_text(encoding="utf-8")) for file in files}
    return dict(sorted(ends.items()))


def problems(ends: Mapping[int, RankEnd]) -> list[str]:
    """Return the mistakes of the user from the first rank that reports any; empty: none does."""
    return next((end["problems"] for end in ends.values() if end["problems"]), [])


def _file_name(rank: int | str) -> str:
    return f"rank-end-{rank}.json"
