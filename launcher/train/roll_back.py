"""The way back to a checkpoint from before a spike."""

from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.sinks import warn
from launcher.storage import lease, roll_backs
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import RollBack
from launcher.train import spikes
from launcher.train.checkpoint_writer import RunReplaced


def go_back(folder: RunDir, group: ProcessGroup, stop: StopMonitor, spike: RollBack, abort_after: int) -> int:
    """Record that steps are left out, remove the checkpoints that have trained them, and return the step at which
    training continues. All ranks call it.

    It is the newest checkpoint before these steps; 0, the beginning: there is none. Raises SpikesStay after
    `abort_after` spikes in a row, and RunReplaced if another start has taken over.
    """
    count, step = group.broadcast(_record(folder, stop, spike, abort_after) if group.rank == 0 else None)
    if count < 0:
        raise RunReplaced(folder)
    if count >= abort_after:
        raise spikes.SpikesStay(spikes.stay_message(count, spike.step, abort_after))
    return step


def _record(folder: RunDir, stop: StopMonitor, spike: RollBack, abort_after: int) -> tuple[int, int]:
    """Write and remove files, as rank 0. Returns the number of spikes in a row (-1: another start has taken over), and
    the step at which training continues."""
    try:
        if stop.lease is not None:
            stop.lease.check()
    except lease.LeaseLost:
        return -1, 0
    whole = [saved.step for saved in folder.whole()]
    step = max((step for step in whole if step < spike.first), default=0)
    known = [*roll_backs.read(folder), spike]
    if (count := roll_backs.in_a_row(known)) < abort_after:
        roll_backs.add(folder, spike)
        roll_backs.remove_abandoned(folder)
        warn(f"steps {spike.first} to {spike.step} are left out; training goes on from step {step}")
    return count, step
