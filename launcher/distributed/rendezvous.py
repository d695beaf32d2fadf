"""The rendezvous of a start's processes: messages in a folder that all of them see, and then a store.

The first process opens a port, and only then posts its address. The others wait for that message. This holds for nodes
of a job (`node_rendezvous`) and for ranks that srun or mpirun started (`rank_rendezvous`). A run needs a shared folder
in any case. Messages in it arrive even if the network between hosts does not work, and can be read afterwards.
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
"""A JSON object that one process of a start posts for the others."""
_POLL_SECONDS = 0.05
_ATTEMPTS = 20
"""Attempts to post a message while other starts remove the folder that they share."""


class MessageFolder:
    """A folder in which the processes of a start post messages: JSON files, each with its own name."""

    def __init__(self, path: Path):
        self.path = path
        self.trouble = ""
        """Why the folder could not be read the last time; empty: it could be, or was not there."""
        self._made_parent = False

    def post(self, name: str, message: Message) -> None:
        """Write a message atomically. Raises OSError."""
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
        """Return the posted messages by name. Those that are not posted, or cannot be read at the moment, are left out.

        The folder is listed each time, because a network disk may remember for a minute that a name did not exist. It
        may also show a file before its content.
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
        """Return these messages as soon as all are posted, or those that are posted after `seconds`.

        `late`: called repeatedly with the seconds waited and the missing names. Raises StoppedBeforeTraining.
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
        """Remove a message, then the folder if it is empty.

        The folder around it is removed too if it is empty and this start has created it.
        """
        with suppress(OSError):
            self._file(name).unlink()
            self.path.rmdir()
            if self._made_parent:
                self.path.parent.rmdir()

    def _file(self, name: str) -> Path:
        return self.path / message_file(name)


def pause(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Sleep. Raises StoppedBeforeTraining if `should_stop` is true."""
    if should_stop():
        raise StoppedBeforeTraining
    time.sleep(seconds)


def serve_store(
    listening: socket.socket, host: str, timeout: timedelta = timedelta(minutes=5)
) -> tuple["dist.TCPStore", int]:
    """Serve a store at a listening socket. Returns the store and the port.

    Others can then connect as soon as they know the port. `host`: name by which this process reaches the store.
    `timeout`: how long a client waits for a key.
    """
    import torch.distributed as dist

    port = listening.getsockname()[1]
    store = dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, timeout=timeout,
        master_listen_fd=listening.detach(), use_libuv=True,
    )  # fmt: skip
    return store, port


def file_store(folder: Path, world: int) -> "dist.FileStore":
    """Return the store of one machine's ranks under an agent. Each of the agent's attempts has its own file."""
    import torch.distributed as dist

    attempt = f"{os.environ['TORCHELASTIC_RESTART_COUNT']}-{os.environ['MASTER_PORT']}-{world}"
    return dist.FileStore(str(folder / f"store-{attempt}"), world)
