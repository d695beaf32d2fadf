"""Saves of checkpoints beside training: the state is copied to host memory, and a thread writes the copy.

On a CPU the thread makes the copy too, beside the next forward and backward, which change no weight.
At most one save is being written. Every decision is the same on all ranks: a save begins and is collected at the same
step everywhere, and its outcome is agreed on by the threads of all ranks, over connections of their own. Only the
signals' handlers and this module's waits run in the main thread meanwhile, so that a stop request is never held up. The
last complete checkpoint stays until the next is complete.
"""

import logging
import threading
import time
from collections.abc import Collection, Mapping
from datetime import timedelta
from types import MappingProxyType

from launcher.config.training import Checkpoint
from launcher.config.types import JsonObject
from launcher.distributed.heartbeat import Heartbeat
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor, after
from launcher.plan.run_estimates import duration
from launcher.sinks import warn
from launcher.storage.checkpoint_format import Part
from launcher.storage.disk_full import DiskFailed
from launcher.storage.run_dir import RunDir
from launcher.train.checkpoint_pace import CheckpointPace
from launcher.train.checkpoint_writer import CheckpointWriter
from launcher.train.saved_parts import HostCopy, OwnParts, StateDict, on_host

PATIENCE_SECONDS = 300.0
"""Seconds for which the last save of a start is tried again, if the job has no deadline."""
STALL_SECONDS = 60.0
"""Seconds that a save is written before a warning says so."""
LAST_RETRY_SECONDS = 10.0
"""Seconds between two attempts at the last save of a start."""
APART_TIMEOUT = timedelta(days=1)
"""How long the threads wait for each other: for the slowest disk. If a rank dies, they notice at once."""
_CLOSE_SECONDS = 30.0
_POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


class _Write(threading.Thread):
    """A checkpoint being written. It ends with the process at any instant: nothing waits for its thread.

    `parts`: in host memory. `live`: parts that the thread copies first, by `copy`; `copied` is set when it has.
    """

    def __init__(
        self, writer: CheckpointWriter, parts: Mapping[str, Part], state: JsonObject, needed: int,
        live: Mapping[str, Part], copy: HostCopy,
    ) -> None:  # fmt: skip
        super().__init__(name="checkpoint", daemon=True)
        self._writer, self._parts, self._state, self._needed = writer, dict(parts), state, needed
        self._live, self._copy = dict(live), copy
        self.copied = threading.Event()
        self.step: int = state["step"]
        self.begun = time.monotonic()
        self.blocked = self.seconds = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            problem = self._copy_live()
            self._writer.write(self._parts, self._state, self._needed, problem)
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - self.begun

    def _copy_live(self) -> Exception | None:
        """Copy the live parts. Returns the error if that fails, which the other ranks have to learn of."""
        try:
            self._parts |= self._copy.update(self._live)
        except Exception as error:
            return error
        finally:
            self._live = {}
            self.copied.set()
        return None


class CheckpointSaver:
    """The saves of a run, as one rank sees them. `step`: of the newest checkpoint, complete or being written.

    `apart`: the ranks by other connections, for the threads that write. They are connected before the first save,
    because the store of the addresses may be gone when ranks save that have lost their launcher.
    """

    def __init__(
        self, folder: RunDir, config: Checkpoint, process: ProcessGroup, apart: ProcessGroup, stop: StopMonitor,
        between_failures: float, step: int = -1,
    ) -> None:  # fmt: skip
        self._folder, self._config, self._process, self._stop = folder, config, process, stop
        self._apart = apart
        self.pace = CheckpointPace(config, between_failures)
        self.step = self._complete = step
        self._parts, self._copy = OwnParts(), HostCopy(process.device)
        self._write: _Write | None = None
        self._warn_at = STALL_SECONDS

    @property
    def writing(self) -> bool:
        """Whether this rank's thread is writing a checkpoint."""
        return self._write is not None and self._write.is_alive()

    @property
    def saving(self) -> int:
        """The step of the checkpoint that the ranks write, the same on all of them; 0: they write none."""
        return 0 if self._write is None else self._write.step

    def due(self) -> bool:
        """Return whether a save is due by this rank's clock. None is while one is being written: the newest state is
        saved after it."""
        return self._write is None and self.pace.due()

    def save(self, tensors: StateDict, state: JsonObject, keep: int, changing: Collection[str] = ()) -> None:
        """Begin to save the state of a step. All ranks call it. It waits for the save before, if that is not over.

        `keep`: number of newest checkpoints to keep. The tensors may change after `settle`, and those named in
        `changing` at once, since a forward changes them. Raises RunReplaced, and any other error of the save before
        except for DiskFailed, which is a warning.
        """
        begin = time.monotonic()
        if self._write is not None:
            self._wait_in_step(self._write)
        if self._write is not None:  # the disk does not respond: the newest state is saved when it does
            self.pace.postponed()
            return
        parts = self._parts.of(tensors, self._apart)
        if self._config.mode == "sync":
            self._begin(on_host(parts), tensors, state, keep, begin)
            self._wait()
            self._over(time.monotonic() - begin)
            return
        self._copy.keep_only(parts)
        late = {name for name in parts if name not in changing} if self._process.device.type == "cpu" else set()
        copied = self._copy.update({name: part for name, part in parts.items() if name not in late})
        live = {name: part for name, part in parts.items() if name in late}
        self._begin(copied, tensors, state, keep, begin, live)

    def settle(self) -> None:
        """Wait until the copy of the state is complete. It is called before anything but a forward changes the weights
        or the optimiser's state."""
        if self._write is not None and not self._write.copied.is_set():
            begin = time.monotonic()
            self._write.copied.wait()
            self._write.blocked += time.monotonic() - begin

    def collect(self, writing: bool) -> None:
        """Take the outcome of the save that is being written, if it is over. All ranks call it after each exchange.

        `writing`: whether any rank is still writing. Raises as `save` does.
        """
        if self._write is None:
            return
        if writing:
            self._warn_of_stall(self._write)
        else:
            self._over(self._write.blocked)

    def finish(self) -> None:
        """Wait for the save that is being written, if there is one. All ranks call it. Raises as `save` does."""
        if self._write is not None:
            self._wait()
            self._over(self._write.blocked)

    def save_last(self, tensors: StateDict, state: JsonObject, keep: int, heartbeat: Heartbeat) -> None:
        """Save the state of a step, after `finish`, and wait until its checkpoint is complete. All ranks call it before
        they leave.

        A save that fails is tried again until the job's deadline, else for PATIENCE_SECONDS. Raises DiskFailed if the
        last attempt fails too, and RunReplaced. `heartbeat`: beats at each attempt, so that a full disk is no hang.
        """
        left = self._stop.seconds_left()
        out_of_time = after(PATIENCE_SECONDS if left is None else left)
        while self.step != state["step"]:
            begin = time.monotonic()
            heartbeat.beat(heartbeat.position.stage, state["step"])
            write = self._begin(on_host(self._parts.of(tensors, self._apart)), tensors, state, keep, begin)
            self._wait()
            if isinstance(write.error, DiskFailed) and self._process.broadcast(out_of_time()):
                raise write.error
            self._over(time.monotonic() - begin, "it is tried again")
            if self.step != state["step"]:
                time.sleep(LAST_RETRY_SECONDS)

    def close(self) -> None:
        """Wait a while for the checkpoint that is being written, after an error elsewhere."""
        if self._write is not None:
            self._write.join(_CLOSE_SECONDS)

    def _begin(
        self, parts: Mapping[str, Part], tensors: StateDict, state: JsonObject, keep: int, begin: float,
        live: Mapping[str, Part] = MappingProxyType({}),
    ) -> _Write:  # fmt: skip
        config = self._config.model_copy(update={"keep": keep})
        writer = CheckpointWriter(self._folder, self._apart, config, self._stop.lease)
        needed = sum(tensor.nbytes for tensor in tensors.values())
        self._write = _Write(writer, parts, state, needed, live, self._copy)
        self.step, self._warn_at = self._write.step, STALL_SECONDS
        self.pace.begun()
        self._write.start()
        self._write.blocked = time.monotonic() - begin
        return self._write

    def _over(self, blocked: float, then: str = "training goes on, and the next state is saved later") -> None:
        """Take the outcome of a save that is over on all ranks. A disk that failed is a warning, else errors are
        raised. `then`: what happens after a warning."""
        assert self._write is not None
        write, self._write = self._write, None
        if write.error is None:
            self._complete = write.step
            _log.info(
                "checkpoint of step %d: training waited %.2f s, it took %.1f s", write.step, blocked, write.seconds
            )
            note = self.pace.complete(blocked, write.seconds)
            if note and self._process.rank == 0:
                warn(f"note: {note}")
            return
        self.step = self._complete
        if not isinstance(write.error, DiskFailed):
            raise write.error
        self.pace.failed()
        self._warn(f"the checkpoint of step {write.step} could not be saved: {write.error}", then)

    def _wait_in_step(self, write: _Write) -> None:
        """Wait for the save before, as all ranks do, but not for ever: training can go on without it."""
        write.join(max(0.0, write.begun + STALL_SECONDS - time.monotonic()))
        if any(self._process.all_gather_objects(write.is_alive())):
            self._warn_of_stall(write)
        else:
            self._over(write.blocked)

    def _wait(self) -> None:
        """Wait until the save is over on all ranks. Raises DiskFailed on all of them if it takes longer than the ranks
        wait for each other."""
        assert self._write is not None
        write, late = self._write, after(self._process.timeout.total_seconds())
        while write.is_alive() and not late():
            write.join(_POLL_SECONDS)
            self._warn_of_stall(write)
        if any(self._process.all_gather_objects(write.is_alive())):
            what = f"{self._folder.checkpoints} does not respond: the checkpoint of step {write.step} has been written"
            raise DiskFailed(f"{what} for {duration(time.monotonic() - write.begun)} (see to that disk)")

    def _warn_of_stall(self, write: _Write) -> None:
        seconds = time.monotonic() - write.begun
        if seconds > self._warn_at:
            self._warn_at = 2 * seconds
            what = f"the checkpoint of step {write.step} has been written into {self._folder.checkpoints} for"
            self._warn(f"{what} {duration(seconds)} and is not complete", "training goes on meanwhile")

    def _warn(self, what: str, then: str) -> None:
        if self._process.rank == 0:
            good = "there is none before it" if self._complete < 0 else f"the last good one is of step {self._complete}"
            warn(f"warning: {what}; {good}; {then}")
