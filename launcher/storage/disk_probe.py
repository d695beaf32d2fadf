"""A probe of the folder that checkpoints go to: what a save does there, with a small file."""

import shutil
import uuid
from pathlib import Path

from launcher.config.atomic_files import flush
from launcher.storage import disk_full
from launcher.storage.disk_full import DiskFailed

_BYTES = 4096


def problem(folder: Path) -> str | None:
    """Write, flush and rename a small folder with a file in `folder`, which is created, and remove it again. Returns
    why that fails in a sentence; None: it works."""
    aside = folder / f".probe-{uuid.uuid4().hex[:16]}"
    renamed = aside.with_name(f"{aside.name}-renamed")
    try:
        with disk_full.failing_reported(folder), disk_full.reported(folder, _BYTES):
            folder.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            (aside / "file").write_bytes(bytes(_BYTES))
            flush(aside / "file")
            aside.rename(renamed)
            flush(folder)
    except (OSError, DiskFailed) as error:
        reason = str(error.strerror) if isinstance(error, OSError) else str(error)
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "it is a file, not a folder"
        return f"no checkpoint can be saved in {folder}: {reason} (repair that, or start the run in another folder)"
    finally:
        for left in (aside, renamed):
            shutil.rmtree(left, ignore_errors=True)
    return None
