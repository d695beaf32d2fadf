"""A process that has imported what the launcher and its ranks need, and forks one for each command of a test.

Run as a script: `python warm_start_server.py SOCKET`. A request is a JSON object (`module`, `argv`, `cwd`, `env`,
`session`) with three descriptors for the child's standard streams. The answers are its pid, and its wait status when
it has ended. A child differs from `python -m module` only in that it does not import again. The servers that
multiprocessing starts from it are forked as well.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

sys.path[0] = str(Path(__file__).parents[1])
from launcher.distributed import private_tmp  # noqa: E402
from support import warm_start  # noqa: E402

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
_IMPORTS = (
    "launcher.cli", "launcher.worker", "launcher.launch.rank_entry", "launcher.tools.run_command",
    "launcher.tools.tables", "launcher.plan._model_spec_process",
    "torch.distributed", "torch._dynamo", "torch.distributed.elastic.agent.server", "datasets",
    "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert",
)  # fmt: skip
_path = ""
_inherited: list[object] = []
"""Streams that a thread of the process before a fork may have locked: they are neither used nor closed."""


def serve(path: str) -> None:
    """Answer requests until whoever started this process is gone (its standard input ends)."""
    global _path
    _path = path
    for name in _IMPORTS:
        __import__(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy the memory that it shares with this process
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        waiting: dict[int, tuple[int, socket.socket]] = {}
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    connection = listener.accept()[0]
                    pid, fd = _begin(
                        connection, [listener, selector, *(held for _, held in waiting.values())], list(waiting)
                    )
                    waiting[fd] = pid, connection
                    selector.register(fd, selectors.EVENT_READ)
                elif key.fd in waiting:
                    pid, connection = waiting.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    with suppress(OSError), connection:  # nobody waits for it any more
                        connection.send(struct.pack("i", os.waitpid(pid, 0)[1]))
                else:
                    return


def _begin(connection: socket.socket, ours: list[Any], pids: list[int]) -> tuple[int, int]:
    """Fork the child of a request: its pid, and a descriptor that is readable when it has ended."""
    size = struct.unpack("i", connection.recv(4))[0]
    message, streams, _, _ = socket.recv_fds(connection, 1, 3)
    while len(message) < size:
        message += connection.recv(size - len(message))
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        for fd in pids:
            os.close(fd)
        for one in (connection, *ours):  # by themselves, lest they close another's descriptor of that number later
            one.close()
        _become(request, streams)
    for fd in streams:
        os.close(fd)
    connection.send(struct.pack("i", pid))
    return pid, os.pidfd_open(pid)


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    import importlib
    from multiprocessing import util

    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8", errors="strict")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = [request.get("module", "-c"), *request["argv"]]
    sys.path[0] = request["cwd"]
    importlib.invalidate_caches()
    tempfile.tempdir = None  # TMPDIR is read again
    util.spawnv_passfds = _fork_instead
    warm_start.attach(_path)
    warm_start.fork_code()
    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
    if "code" in request:
        _end(lambda: exec(request["code"], {"__name__": "__main__"}), at_exit=False)
    _end(lambda: runpy.run_module(request["module"], run_name="__main__", alter_sys=True), at_exit=True)


def _fork_instead(path: bytes, arguments: list[str], passfds: list[int]) -> int:
    """In the place of multiprocessing's start of an interpreter with a command: the command, in a fork."""
    pid = os.fork()
    if pid == 0:
        _become_instead(arguments, passfds)
    return pid


def _become_instead(arguments: list[str], passfds: list[int]) -> NoReturn:
    command = arguments[arguments.index("-c") + 1]
    keep = {0, 1, 2, *passfds}
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd not in keep:
            with suppress(OSError):
                os.close(fd)
    private_tmp._locks.clear()  # an interpreter that starts holds no lock yet
    _inherited.append(sys.stdin)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv = ["-c", *arguments[arguments.index("-c") + 2 :]]
    _end(lambda: exec(command, {"__name__": "__main__"}), at_exit=False)


def _end(program: Callable[[], object], at_exit: bool) -> NoReturn:
    """Run a program, and leave as an interpreter does, but for clearing the imported modules: that takes a second, and
    copies the memory that is shared with the server.

    `at_exit`: whether to wait for threads and run what is registered for the exit. A child of multiprocessing does not:
    it would end the other children of the process that it was forked from.
    """
    code = 1
    try:
        program()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    if at_exit:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except ValueError:  # closed: the helper of multiprocessing does so
            pass
        except OSError:
            code = 120
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
