"""The Python stacks of a rank, on request of another process.

A handler in C writes them, so that a rank answers even inside native code that holds the interpreter's lock. The signal
is SIGURG, which processes without a handler ignore. Forked processes of a rank, such as those that load data, inherit
the handler and the file.
"""

import ctypes
import faulthandler
import os
import platform
import re
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.config import paths

SIGNAL = signal.SIGURG
_TGKILL = {"x86_64": 234, "aarch64": 131}
"""Number of the system call that signals one thread. The C library has no function for it before glibc 2.30."""
_ANSWER_SECONDS = 2.0
_POLL_SECONDS = 0.02
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+[^\n]*:$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_BOOTSTRAP = "/threading.py"
_COLLECTIVES = ("/torch/distributed/distributed_c10d.py", "/torch/distributed/_functional_collectives.py")
_LIBRARIES_THAT_WAIT = ("/torch/distributed/", "/deepspeed/")
_COMPILERS = (
    "/torch/_dynamo/convert_frame.py", "/torch/_inductor/async_compile.py", "/torch/_inductor/graph.py",
    "/torch/_inductor/scheduler.py", "/torch/_inductor/cpp_builder.py", "/torch/utils/cpp_extension.py",
    "/triton/compiler/", "/triton/runtime/autotuner.py",
)  # fmt: skip
"""Files with the functions of compilers, which may take minutes."""
_PACKAGE = str(Path(__file__).parents[1])
_INSTALLED = tuple({*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))})
_open: list[object] = []
"""The file that the handler writes to."""


@dataclass(frozen=True)
class Frame:
    """One call on a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"

    @property
    def own(self) -> bool:
        """Whether the code is of the user or of the launcher, not of a library."""
        return self.file.startswith(_PACKAGE) or not (
            self.file.startswith(("<", *_INSTALLED)) or "/site-packages/" in self.file
        )


@dataclass(frozen=True)
class Stack:
    """The calls of a main thread, the innermost first. `text`: as written, of all threads."""

    frames: tuple[Frame, ...]
    text: str

    @property
    def culprit(self) -> Frame | None:
        """The innermost call of code of the user, else of the launcher, else of a library."""
        own = [frame for frame in self.frames if frame.own]
        return next(iter([*own, *self.frames]), None)

    @property
    def collective(self) -> str:
        """The collective in which the rank waits, such as `all-reduce`; empty: it waits in none."""
        for frame in self.frames:
            if frame.file.endswith(_COLLECTIVES):
                called = [f for f in self._inner() if f.file.endswith(_COLLECTIVES) and not f.function.startswith("_")]
                return called[-1].function.replace("_", "-") if called else "collective"
            if frame.own:
                break
        inner = self.frames[0].file if self.frames else ""
        return "collective" if any(part in inner for part in _LIBRARIES_THAT_WAIT) else ""

    @property
    def compiles(self) -> bool:
        """Whether the rank compiles."""
        return any(part in frame.file for frame in self.frames for part in _COMPILERS)

    def _inner(self) -> Iterator[Frame]:
        """Yield the calls inside the innermost one of own code."""
        for frame in self.frames:
            if frame.own:
                return
            yield frame


def register(logs: Path, rank: int) -> None:
    """Have this process write its stacks to the logs of a run at each `SIGNAL`."""
    with suppress(OSError):  # a full disk
        file = path(logs, rank).open("ab", buffering=0)
        faulthandler.register(SIGNAL, file=file, all_threads=True)
        _open[:] = [file]


def path(logs: Path, rank: int) -> Path:
    """Return the file of a rank's stacks."""
    return logs / f"{paths.STACKS}{rank}.txt"


def remove_empty(logs: Path, rank: int) -> None:
    """Remove the file of a rank if no stacks were requested."""
    with suppress(OSError):
        if path(logs, rank).stat().st_size == 0:
            path(logs, rank).unlink()


def request(pid: int, file: Path, revive: bool = False) -> Stack | None:
    """Have a process write its stacks, and return them. None: it does not answer.

    `revive`: continue a stopped process until it has answered, then stop it again.
    """
    try:
        before = file.stat().st_size
        _signal_main_thread(pid)
        if revive:
            os.kill(pid, signal.SIGCONT)
        text = _answer(file, before)
        if revive:
            os.kill(pid, signal.SIGSTOP)
    except OSError:
        return None
    return parse(text) if text else None


def _signal_main_thread(pid: int) -> None:
    """Send `SIGNAL` to the main thread of a process. A stopped one handles it before it does anything else.

    The kernel may give a signal to the whole process to another thread, and the main thread would move on meanwhile.
    Raises OSError.
    """
    number = _TGKILL.get(platform.machine()) if sys.platform == "linux" else None
    if number is None:
        os.kill(pid, SIGNAL)
    elif ctypes.CDLL(None, use_errno=True).syscall(number, pid, pid, int(SIGNAL)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def request_children(pid: int, file: Path) -> list[Stack]:
    """Return the stacks of the processes that a rank has forked."""
    try:
        children = [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []
    return [stack for stack in (request(child, file) for child in children) if stack is not None]


def parse(text: str) -> Stack:
    """Return the stack of the main thread from faulthandler's text."""
    starts = [found.end() for found in _THREAD.finditer(text)]
    blocks = [text[begin:end] for begin, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    threads = [tuple(Frame(f[1], int(f[2]), f[3]) for f in _FRAME.finditer(block)) for block in blocks]
    threads = [frames for frames in threads if frames]
    main = [frames for frames in threads if not frames[-1].file.endswith(_BOOTSTRAP)]
    return Stack(next(iter([*main, *threads]), ()), text.strip())


def _answer(file: Path, before: int) -> str:
    """Return what was appended to a file as soon as it does not grow any more; empty: nothing in time."""
    deadline, last = time.monotonic() + _ANSWER_SECONDS, before
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        size = file.stat().st_size
        if size > before and size == last:
            break
        last = size
    with file.open("rb") as opened:
        opened.seek(before)
        return opened.read().decode(errors="replace")
