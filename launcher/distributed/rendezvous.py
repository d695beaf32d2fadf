"""The rendezvous of a start's processes: messages in a folder that all of them see, and then a store.

The first process opens a port, and only then posts where it is; the others wait for that message. Nodes of a job
(`node_rendezvous`) and ranks that srun or mpirun started (`rank_rendezvous`) both work so. A shared folder is needed in
any case. It works while the network between hosts does not, and the messages can be read afterwards.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.config.atomic_files import write
from launcher.config.paths import message_file
from launcher.distributed.stop_requests import StoppedBeforeTraining

if TYPE_CHECKING:
    import torch.distributed as dist

Message = dict[str, Any]
"""A JSON object, as one process of a start posts it for the others."""
_POLL_SECONDS = 0.05
_ATTEMPTS = 20
"""Attempts to post a message while other starts remove the folder that they share."""


class MessageFolder:
    """A folder in which the processes of a start post messages: JSON files, each under a name of its own."""

    def __init__(self, path: Path):
        self.path = path
        self.trouble = ""
        """Why the folder could not be read the last time; empty: it could be, or was not there."""
        self._made_parent = False

    def post(self, name: str, message: Message) -> None:
        """Write a message, whole or not at all. Raises OSError."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._made_parent |= not self.path.parent.exists()
                self.path.mkdir(parents=True, exist_ok=True)
                write(self._file(name), json.dumps(message), flushed=False)
                return
            except (FileNotFoundError, FileExistsError):  # another start removed the folder in between
                if attempt == _ATTEMPTS:
                    raise

    def read(self, names: Collection[str]) -> dict[str, Message]:
        """Return the messages that are there, by name.

        The folder is listed each time: a network disk may remember for a minute that a name was not there, and may show
        a file before its content. What cannot be read for a moment is not there yet.
        """
        messages = dict[str, Message]()
        self.trouble, present = "", set[str]()
        with self._noting_errors():
            present = set(os.listdir(self.path))  # noqa: PTH208 (names alone)
        for name in names:
            if self._file(name).name in present:
                with self._noting_errors(), suppress(ValueError):
                    messages[name] = json.loads(self._file(name).read_text(encoding="utf-8"))
        return messages

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            self.trouble = f"{error.filename or self.path} cannot be read: {error.strerror}"

    def wait(
        self,
        names: Collection[str],
        seconds: float,
        should_stop: Callable[[], bool],
        late: Callable[[float, list[str]], None] = lambda waited, missing: None,
    ) -> dict[str, Message]:
        """Return these messages as soon as all are there, or those that are there after so long.

        `late`: called again and again with the seconds waited and the missing names. Raises StoppedBeforeTraining.
        """
        messages, begin = dict[str, Message](), time.monotonic()
        while missing := [name for name in names if name not in messages]:
            pause(0, should_stop)
            messages |= self.read(missing)
            waited = time.monotonic() - begin
            if waited > seconds:
                break
            if missing := [name for name in names if name not in messages]:
                late(waited, missing)
            time.sleep(_POLL_SECONDS)
        return messages

    def remove(self, name: str) -> None:
        """Remove a message, then the folder where no other start has a message there, and the one around it where this
        start has created it and it is empty."""
        with suppress(OSError):
            self._file(name).unlink()
            self.path.rmdir()
            if self._made_parent:
                self.path.parent.rmdir()

    def _file(self, name: str) -> Path:
        return self.path / message_file(name)


def pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Sleep. Raises StoppedBeforeTraining."""
    if should_stop():
        raise StoppedBeforeTraining
    time.sleep(seconds)


def serve_store(
    listening: socket.socket, host: str, timeout: timedelta = timedelta(minutes=5)
) -> tuple["dist.TCPStore", int]:
    """Serve a store at a socket that listens already, so that its port is open when others hear of it. Returns the
    store and the port. `host`: by which this process reaches it. `timeout`: for a client's wait for a key."""
    import torch.distributed as dist

    port = listening.getsockname()[1]
    store = dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, timeout=timeout,
        master_listen_fd=listening.detach(), use_libuv=True,
    )  # fmt: skip
    return store, port


def file_store(folder: Path, world: int) -> "dist.FileStore":
    """Return the store of one machine's ranks under an agent: a file for each of the agent's attempts."""
    import torch.distributed as dist

    attempt = f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['MASTER_PORT']}-{world}"
    return dist.FileStore(str(folder / f"store-{attempt}"), world)
