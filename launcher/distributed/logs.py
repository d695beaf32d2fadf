"""Set up Python's logging for the launcher, for the agents of nodes and for ranks, and open the log file of each rank.

A line on the console has only the message. A line in a log file begins with the time, the rank or node, and the level.
The level is INFO, or DEBUG with --verbose.
"""

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from launcher.config import env_vars, paths
from launcher.distributed import output_streams

ELASTIC_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing")
"""Loggers of torch's elastic agent."""
_ROOT = logging.getLogger("launcher")


class _Console(logging.Handler):
    """A handler that writes to the current standard error. Errors are ignored, so that lost output ends no training."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):
            output_streams.write_error(f"{self.format(record)}\n")


class _LogFile(logging.Handler):
    """A handler that writes to an open file descriptor."""

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            os.write(self._descriptor, f"{self.format(record)}\n".encode(errors="backslashreplace"))


def set_up() -> None:
    """Log to the console. Earlier handlers are removed."""
    _attach(_Console())
    for logger in map(logging.getLogger, ELASTIC_LOGGERS):
        for handler in [handler for handler in logger.handlers if isinstance(handler, _Console)]:
            logger.removeHandler(handler)
    if verbose():
        _log_elastic(_Console())


def verbose() -> bool:
    """Return whether debug messages are logged."""
    return os.environ.get(env_vars.LOG_LEVEL) == "DEBUG"


def set_verbose() -> None:
    """Log debug messages from here on, also in the ranks and agents that this process starts."""
    os.environ[env_vars.LOG_LEVEL] = "DEBUG"
    set_up()


def set_up_node(folder: Path, node: str) -> None:
    """Write the messages of a node's elastic agent to its own file in `folder`, in addition to the console."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / f"node-{node}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _ROOT.addHandler(handler)
    _log_elastic(handler)


def silence_elastic_agent() -> None:
    """Suppress the messages of torch's elastic agent, unless --verbose. The launcher reports failures itself."""
    if not verbose():
        for name in ELASTIC_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)


def redirect_rank(folder: Path, rank: int) -> None:
    """Send all output of this process to its rank's log in a run folder.

    Rank 0 keeps Python's standard output, because its console sink draws there. The log gets a copy of it.
    """
    file = _open_log(folder, rank)
    os.dup2(file, 2)
    if rank > 0:
        os.dup2(file, 1)
        os.close(file)
    else:
        output_streams.separate(file)
    _attach(_with_time(_Console(), rank))


def copy_rank(folder: Path, rank: int) -> None:
    """Copy all output of this process to its rank's log. Another launcher decides where the output itself goes."""
    file = _open_log(folder, rank)
    output_streams.copy_to(file, 1, 2)
    _attach(_Console(), _with_time(_LogFile(file), rank))


def _attach(*handlers: logging.Handler) -> None:
    for handler in list(_ROOT.handlers):
        _ROOT.removeHandler(handler)
    for handler in handlers:
        _ROOT.addHandler(handler)
    _ROOT.setLevel(logging.DEBUG if verbose() else logging.INFO)
    _ROOT.propagate = False  # else a library's handler of the root logger prints lines twice


def _log_elastic(handler: logging.Handler) -> None:
    for name in ELASTIC_LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _with_time(handler: logging.Handler, rank: int) -> logging.Handler:
    handler.setFormatter(logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s"))
    return handler


def _open_log(folder: Path, rank: int) -> int:
    """Open the log of a rank for appending, and return its descriptor. torch's flight recorder will write beside it.

    If a full disk has no room for the file, the null device is opened instead, so that training goes on. Raises
    OSError.
    """
    env_vars.set_default(env_vars.COLLECTIVES_DUMP, str(folder.absolute() / paths.COLLECTIVES), os.environ)
    try:
        folder.joinpath(paths.LOGS).mkdir(parents=True, exist_ok=True)
        return os.open(folder / paths.LOGS / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return os.open(os.devnull, os.O_WRONLY)
