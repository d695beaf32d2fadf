"""The ledger of a run's seconds: RUN/ledger.jsonl, to which the running start appends its account every few seconds.

A line has the seconds so far, by purpose, of the process that wrote it: of a command that starts ranks, up to the start
of the ranks, or of rank 0. All ranks move together, so that the account of rank 0 is that of the job. A process that is
killed leaves its last line. Durations are those of monotonic clocks; only between two processes do the wall-clock
times of lines count.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from launcher.config import strict_json
from launcher.config.atomic_files import append_line
from launcher.config.strict_json import Count, Stored, Time, Word, Wrong
from launcher.storage.run_dir import RunDir

Purpose = Literal[
    "start", "prepare", "compile", "data", "compute", "communicate", "save", "evaluate", "hang", "lost", "down"
]
"""Purpose of a second of a run.

start: from the command to the first step (imports, joining, loading a checkpoint), without `prepare`: planning and
preparing data. compile: of torch.compile. data, compute, communicate: of steps. save, evaluate: while these hold up the
training. hang: of ranks that their watchdog ended. lost: of steps whose results were thrown away. down: nothing ran.
"""
PURPOSES: tuple[Purpose, ...] = (
    "start", "prepare", "compile", "data", "compute", "communicate", "save", "evaluate", "hang", "lost", "down",
)  # fmt: skip
OF_STEPS: tuple[Purpose, ...] = ("data", "compute", "communicate")
"""Purposes of the seconds of a step."""
_HINT = "take this line out, or move the file away"


class LedgerLine(Stored):
    """A line of the ledger.

    `process`: a name of the process, which no other has. `writer`: whether it is a command or rank 0. `time`: seconds
    since the epoch at which the line was written. `step`: number of steps that are taken; None: training has not begun.
    `saves`: number of checkpoints that this process has saved. `seconds`: of this process by purpose; their sum is its
    age.
    """

    process: Word
    writer: Literal["command", "rank"]
    time: Time
    step: Count | None = None
    saves: Count = 0
    seconds: dict[Purpose, Annotated[float, Field(ge=0, lt=1e10)]]

    @property
    def age(self) -> float:
        """Seconds from the beginning of the process, or of its account, to this line."""
        return sum(self.seconds.values())

    @property
    def begun(self) -> float:
        """The beginning of the account, in seconds since the epoch, by the clock at this line."""
        return self.time - self.age


def append(folder: RunDir, line: LedgerLine) -> None:
    """Append a line. Raises OSError if it cannot be written completely."""
    seconds: Mapping[Purpose, float] = {
        purpose: round(value, 4) for purpose, value in line.seconds.items() if value >= 0.00005
    }
    append_line(folder.ledger, json.dumps({**line.model_dump(exclude_none=True), "seconds": seconds}))


def read(folder: RunDir) -> list[LedgerLine]:
    """Return the lines in their order; empty: there is no ledger, as of a run of an earlier launcher.

    Incomplete lines are ignored. Raises DamagedFile for a line with wrong values.
    """
    found = list[LedgerLine]()
    if not strict_json.exists(folder.ledger):
        return found
    for offset, line in strict_json.lines(folder.ledger, _HINT):
        try:
            values = strict_json.parse(line)
        except Wrong:
            continue
        try:
            found.append(strict_json.check(values, LedgerLine))
        except Wrong as error:
            raise strict_json.damage(strict_json.place(folder.ledger, offset), error, _HINT) from None
    return found
