"""The checkpoint from which ranks resume: the newest one in which no rank finds damage."""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.config.errors import UserError
from launcher.config.strict_json import DamagedFile
from launcher.distributed.process_group import ProcessGroup
from launcher.sinks import warn
from launcher.storage import sound_checkpoints
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir


def newest(folder: RunDir, names: Sequence[str], group: ProcessGroup) -> SavedCheckpoint | None:
    """Verify the checkpoints with these names, the last one first, and return the first undamaged one; None: there are
    no names. All ranks call it, and each reads a share of the files.

    Rank 0, which has to hold the lease of the run, sets the damaged ones aside, with a warning. Raises UserError on
    all ranks if all are damaged, or if a newer version of the launcher has written one, and RuntimeError if a rank
    reads something else than rank 0.
    """
    damaged = dict[SavedCheckpoint, list[str]]()
    for name in reversed(names):
        saved = SavedCheckpoint(folder.checkpoints / name)
        found = _verify(saved, group)
        if found.refused:
            raise UserError(found.problems)
        if found.problems:
            damaged[saved] = found.problems
            continue
        if group.rank == 0 and damaged:
            _set_aside(damaged, saved)
        group.barrier()
        return saved
    if damaged:
        raise sound_checkpoints.none_left(folder, [problem for found in damaged.values() for problem in found])
    return None


@dataclass(frozen=True)
class _Found:
    """What was found in a checkpoint. `refused`: the checkpoint may not be skipped."""

    problems: list[str]
    refused: bool = False


def _verify(saved: SavedCheckpoint, group: ProcessGroup) -> _Found:
    """Return what is wrong with a checkpoint, the same on all ranks.

    Damage counts if rank 0 finds it too. Otherwise the host of another rank has an outdated or faulty view of the disk,
    and the checkpoint stays where it is.
    """
    shares = group.all_gather_objects(_verify_share(saved, group.rank, group.world))
    if not any(share.problems for share in shares):
        return _Found([])
    found = group.broadcast(_verify_share(saved, 0, 1) if group.rank == 0 else None)
    if not found.problems:
        rank, problem = next((rank, share.problems[0]) for rank, share in enumerate(shares) if share.problems)
        raise RuntimeError(f"rank {rank}: {problem}, but rank 0 reads it undamaged: is it the same disk on both hosts?")
    return found


def _verify_share(saved: SavedCheckpoint, index: int, shares: int) -> _Found:
    try:
        saved.verify_share(index, shares)
    except UserError as error:
        return _Found(list(map(str, error.problems)), refused=not isinstance(error, DamagedFile))
    return _Found([])


def _set_aside(damaged: dict[SavedCheckpoint, list[str]], instead: SavedCheckpoint) -> None:
    """Rename the damaged checkpoints, and print a warning."""
    names = " and ".join(saved.set_aside().name for saved in damaged)
    what = "; ".join(problem for problems in damaged.values() for problem in problems)
    warn(f"warning: {what}: resuming from step {instead.step}; kept as {names}")
