"""Commands of the launcher, started as subprocess does, but from a warm server of this test process."""

import atexit
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_AT_START = (
    "PYTHON", "LD_", "LC_", "LANG", "OMP_", "MKL_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "DATASETS_",
    "CUDA_", "XDG_", "HOME",
)  # fmt: skip
"""Beginnings of variables that are read while an interpreter starts, or a library is imported."""

_server: "Server | None" = None
cold = False
"""Whether every process is started by its command line."""
_session: dict[str, str] = {}
"""The session's values of the variables in `_AT_START`."""
_run = subprocess.run


class Server:
    """`path`: the socket of one that is there already, for a process that it has forked."""

    def __init__(self, path: str | None = None) -> None:
        if path is not None:
            self.path = path
            return
        self.folder = tempfile.mkdtemp(prefix="warm-")
        self.path = f"{self.folder}/socket"
        words = [sys.executable, str(Path(__file__).with_name("warm_start_server.py")), self.path]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        atexit.register(self.close)

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def _at_start(environment: Any) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_AT_START)}


def attach(path: str) -> None:
    """Let a process that the server at this socket has forked ask it for others."""
    global _server
    _server = Server(path)


def server(environment: Mapping[str, str]) -> Server | None:
    """The server of this process, started at the first call; None in another environment than the session's, or where a
    test wants processes that start as a user's do (`cold`)."""
    global _server
    if cold or _at_start(environment) != _session:
        return None
    if _server is None:
        _server = Server()
    return _server


@contextmanager
def in_this_environment() -> Iterator[None]:
    """Fork from another server within the block: for many commands with other values of those in `_AT_START`."""
    global _server, _session
    before = _server, _session
    _server, _session = None, _at_start(os.environ)
    try:
        yield
    finally:
        if _server is not None:
            atexit.unregister(_server.close)
            _server.close()
        _server, _session = before


class Process:
    """A started command, with the part of subprocess.Popen's interface that the tests use; its output is text."""

    def __init__(
        self, at: Server, program: dict[str, Any], environment: dict[str, str], *,
        stdin: int | None, stdout: int, stderr: int, session: bool,
    ):  # fmt: skip
        self.args, self.returncode = list(program.values()), None
        fed, out, err, theirs = None, None, None, list[int]()
        if stdin == subprocess.PIPE:
            stdin, fed = os.pipe()
        else:
            stdin = os.open(os.devnull, os.O_RDONLY)
        theirs.append(stdin)
        if stdout == subprocess.PIPE:
            out, stdout = os.pipe()
            theirs.append(stdout)
        if stderr == subprocess.PIPE:
            err, stderr = os.pipe()
            theirs.append(stderr)
        stderr = stdout if stderr == subprocess.STDOUT else stderr
        request = {**program, "cwd": str(Path.cwd()), "env": environment, "session": session}
        message = json.dumps(request).encode()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(at.path)
        self._connection.send(struct.pack("i", len(message)))
        socket.send_fds(self._connection, [message[:1]], [stdin, stdout, stderr])
        self._connection.sendall(message[1:])
        for fd in theirs:
            os.close(fd)
        self.pid: int = struct.unpack("i", self._connection.recv(4))[0]
        self.stdin: IO[str] | None = None if fed is None else open(fed, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        self.stdout: IO[str] | None = None if out is None else open(out, encoding="utf-8")  # noqa: SIM115, PTH123
        self.stderr: IO[str] | None = None if err is None else open(err, encoding="utf-8")  # noqa: SIM115, PTH123

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, input: str = "", timeout: float | None = None) -> tuple[str | None, str | None]:
        said: dict[str, str] = {}
        if self.stdin is not None:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(input)

        def read(name: str, stream: IO[str]) -> None:
            with stream:
                said[name] = stream.read()

        streams = {"stdout": self.stdout, "stderr": self.stderr}
        threads = [
            threading.Thread(target=read, args=(name, stream), daemon=True)
            for name, stream in streams.items()
            if stream is not None and not stream.closed
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        return said.get("stdout"), said.get("stderr")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(4)
            except (BlockingIOError, TimeoutError):
                return None
            self.returncode = os.waitstatus_to_exitcode(struct.unpack("i", answer)[0])
            self._connection.close()
        return self.returncode


def start(
    arguments: Sequence[object], *, module: str = "launcher", environment: Mapping[str, str] | None = None,
    stdin: int | None = None, stdout: int = subprocess.PIPE, stderr: int = subprocess.STDOUT, session: bool = True,
) -> Any:  # fmt: skip
    """`python -m module` with these arguments: a Process, or where the environment is not the server's, a Popen.
    `environment`: variables beside those of this process."""
    words, env = list(map(str, arguments)), {**os.environ, **(environment or {})}
    streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    if (at := server(env)) is not None:
        return Process(at, {"module": module, "argv": words}, env, session=session, **streams)
    command = [sys.executable, "-m", module, *words]
    return subprocess.Popen(command, env=env, text=True, start_new_session=session, **streams)


def run(arguments: Sequence[object], timeout: float) -> "subprocess.CompletedProcess[str]":
    """As subprocess.run with captured output."""
    return _finish(start(arguments, stderr=subprocess.PIPE, session=False), None, timeout)


def fork_code() -> None:
    """Let subprocess.run of `python -P -c CODE` with captured text, as the launcher asks for a model's size, fork."""
    global _session
    _session = _at_start(os.environ)
    subprocess.run = _run_code  # type: ignore[assignment]


def _run_code(words: Any, **options: Any) -> Any:
    given = {"capture_output", "text", "errors", "timeout", "input", "check"}
    code = isinstance(words, list) and words[:3] == [sys.executable, "-P", "-c"] and set(options) == given
    at = server(os.environ) if code else None
    if at is None:
        return _run(words, **options)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = Process(at, {"code": words[3], "argv": []}, dict(os.environ), session=False, **streams)
    return _finish(process, options["input"], options["timeout"])


def _finish(process: Any, input: str | None, timeout: float) -> "subprocess.CompletedProcess[str]":
    try:
        out, err = process.communicate(input or "", timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
