"""The notice of a failed rank to the others, among ranks that no agent of the launcher watches.

NCCL does not notice that a rank of the same host has ended: the others would wait in a collective, where they handle
nothing, until the timeout of the group. torchrun and mpirun end them; srun does so only if it is asked to.
"""

import logging
import threading
import time
from contextlib import suppress

import torch.distributed as dist

from launcher.distributed import output_streams, private_tmp
from launcher.distributed.exit_codes import FAILED
from launcher.distributed.process_group import ProcessGroup

_KEY = "failed"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0
"""Seconds for a rank to end by itself, because it has failed too, or has lost the other one."""
_GRACE_AFTER_RANK_0 = 60.0
"""Seconds for a rank to end by itself after rank 0 has ended, which may have succeeded: longer than a group closes."""

_log = logging.getLogger(__name__)


def post(group: ProcessGroup) -> None:
    """Inform the other ranks that this one has failed and ends."""
    if group.store is None:
        return
    with suppress(dist.DistError):
        group.store.set(_KEY, str(group.rank))
        time.sleep(3 * _POLL_SECONDS if group.rank == 0 else 0)  # the store ends with rank 0


def post_for(store: dist.Store, rank: int) -> None:
    """Inform the other ranks that a rank, which cannot do so itself, has failed."""
    store.set(_KEY, str(rank))


def watch(group: ProcessGroup) -> None:
    """End this process some seconds after another rank has posted that it failed, or after the store has ended with
    rank 0, whatever this one waits for: a rank that was killed posts nothing."""
    if group.store is not None:  # a connection of its own: the group may block the other one
        threading.Thread(target=_watch, args=(group.store.clone(), group.rank), name="failures", daemon=True).start()


def _watch(store: dist.Store, rank: int) -> None:
    what, grace = "rank 0 has ended", _GRACE_AFTER_RANK_0
    with suppress(dist.DistError):  # rank 0 has ended, as it does after success
        while not store.check([_KEY]):
            time.sleep(_POLL_SECONDS)
        what, grace = f"rank {int(store.get(_KEY))} has failed", _GRACE_SECONDS
    time.sleep(grace)
    _log.error("rank %d ended because %s (see the log of that rank)", rank, what)
    private_tmp.leave()
    output_streams.exit_now(FAILED)
