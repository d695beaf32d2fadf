"""The way back to a checkpoint from before a spike."""

from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.sinks import warn
from launcher.storage import lease, roll_backs
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import RollBack
from launcher.train import resume_checkpoint, spikes
from launcher.train.checkpoint_writer import RunReplaced


def go_back(folder: RunDir, group: ProcessGroup, stop: StopMonitor, spike: RollBack, abort_after: int) -> int:
    """Record that steps are left out, remove the checkpoints that have trained them, and return the step at which
    training continues. All ranks call it.

    It is the newest undamaged checkpoint before these steps; 0, the beginning: there is none. Raises SpikesStay after
    `abort_after` spikes in a row, RunReplaced if another start has taken over, and as `resume_checkpoint.newest` does.
    """
    count, names = group.broadcast(_record(folder, stop, spike, abort_after) if group.rank == 0 else None)
    if count < 0:
        raise RunReplaced(folder)
    if count >= abort_after:
        raise spikes.SpikesStay(spikes.stay_message(count, spike.step, abort_after))
    saved = resume_checkpoint.newest(folder, names, group)
    step = saved.step if saved is not None else 0
    if group.rank == 0:
        warn(f"steps {spike.first} to {spike.step} are left out; training goes on from step {step}")
    return step


def _record(folder: RunDir, stop: StopMonitor, spike: RollBack, abort_after: int) -> tuple[int, list[str]]:
    """Write and remove files, as rank 0. Returns the number of spikes in a row (-1: another start has taken over), and
    the names of the checkpoints before the steps that are left out."""
    try:
        if stop.lease is not None:
            stop.lease.check()
    except lease.LeaseLost:
        return -1, []
    known = [*roll_backs.read(folder), spike]
    if (count := roll_backs.in_a_row(known)) < abort_after:
        roll_backs.add(folder, spike)
        roll_backs.remove_abandoned(folder)
    return count, [saved.path.name for saved in folder.whole() if saved.step < spike.first]
