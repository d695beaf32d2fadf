"""What a rank and the launcher share where torchrun or accelerate stands between them: variables, a folder, a store."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.config.atomic_files import write
from launcher.distributed.signals import Reason

FOLDER, LAUNCHER, TIMEOUT = "LAUNCHER_START_FOLDER", "LAUNCHER_PID", "LAUNCHER_TIMEOUT"


@dataclass(frozen=True)
class Started:
    """What a rank knows of the launcher behind its starter. `folder`: of the start; `launcher`: its process; `timeout`:
    minutes that ranks wait for each other."""

    folder: Path
    launcher: int
    timeout: float

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Started | None":
        """None where a person has called the starter."""
        if FOLDER not in environment:
            return None
        return cls(Path(environment[FOLDER]), int(environment[LAUNCHER]), float(environment[TIMEOUT]))

    def report(self, rank: int, code: int, reason: Reason, problems: Sequence[str], error: str, trace: str) -> None:
        """Leave word of how a rank ended."""
        said = {"code": code, "reason": int(reason), "problems": list(problems), "error": error, "traceback": trace}
        with suppress(OSError):
            write(self.folder / f"ended-{rank}.json", json.dumps(said))


def file_store(folder: Path, world: int) -> Any:
    """Where the ranks of one machine meet under an agent: a file for each of its attempts."""
    import torch.distributed as dist

    attempt = f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['MASTER_PORT']}-{world}"
    return dist.FileStore(str(folder / f"store-{attempt}"), world)
