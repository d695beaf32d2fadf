"""The newest undamaged checkpoint of a run.

If the newest checkpoint is damaged, the one before it is loaded instead. A start renames the damaged one to
`step-NNNNNNNN.damaged`: it is then neither loaded, nor counted as one of the checkpoints to keep, nor removed.
"""

import logging
from collections.abc import Sequence

from launcher.config.errors import Problem
from launcher.config.strict_json import DamagedFile
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir, over

_log = logging.getLogger(__name__)


def verified(run: RunDir, which: str | int) -> SavedCheckpoint:
    """Return the checkpoint that `which` requests (see RunDir.saved), verified.

    If that is the latest one, damaged checkpoints are skipped with a warning. Raises UserError, and DamagedFile if
    another one was requested, or if all are damaged.
    """
    saved = run.saved(which)
    if which != "latest":
        saved.verify()
        return saved
    saved, damaged = _newest_verified(run)
    if damaged:
        _log.warning("%s: step %d is used", "; ".join(damaged), saved.step)
    return saved


def resumable(run: RunDir, steps: int | None) -> SavedCheckpoint | None:
    """Return the checkpoint from which a start would resume; None: there is no checkpoint.

    Only sizes and states are checked, because ranks verify what they load. If nothing is left to train, it is verified
    here. `steps`: of the whole run, if known. Raises DamagedFile if all are damaged.
    """
    damaged, whole = list[str](), run.whole()
    for saved in reversed(whole):
        try:
            saved.verify_sizes()
        except DamagedFile as error:
            damaged += map(str, error.problems)
            continue
        return saved if over(saved, steps) is None else _newest_verified(run)[0]
    if damaged:
        raise none_left(run, damaged)
    return None


def _newest_verified(run: RunDir) -> tuple[SavedCheckpoint, list[str]]:
    """Return the newest undamaged checkpoint, and what is damaged in newer ones. Raises DamagedFile if all are
    damaged."""
    damaged = list[str]()
    for saved in reversed(run.whole()):
        try:
            saved.verify()
        except DamagedFile as error:
            damaged += map(str, error.problems)
            continue
        return saved, damaged
    raise none_left(run, damaged)


def none_left(run: RunDir, damaged: Sequence[str | Problem]) -> DamagedFile:
    """Return the error for a run whose checkpoints are all damaged."""
    what = f"{run.checkpoints}: every checkpoint is damaged (restore one of them, or choose another name)"
    return DamagedFile([*damaged, what])
