"""Savers of checkpoints whose writes are held up."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from launcher.storage.run_dir import RunDir


def saver(run: Any, folder: str | Path, **config: Any) -> Any:
    """A saver of a rank's run that writes into another folder."""
    from launcher.config.training import Checkpoint
    from launcher.train.checkpoint_saver import APART_TIMEOUT, CheckpointSaver

    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / "recipe.yaml").write_text("name: a\n")
    apart = run.process.apart(APART_TIMEOUT)
    return CheckpointSaver(RunDir(Path(folder)), Checkpoint(**config), run.process, apart, run.stop, 1e6)


@contextmanager
def held(release: Path) -> Iterator[None]:
    """Writes wait until there is the file `release`."""
    from launcher.storage import checkpoint_format

    def write(parts: Any, partial: Path, rank: int, write: Any = checkpoint_format.write_parts) -> Any:
        while not release.exists():
            time.sleep(0.01)
        return write(parts, partial, rank)

    with patch.object(checkpoint_format, "write_parts", write):
        yield
