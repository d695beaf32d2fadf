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
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

_AT_START = (
    "PYTHON", "LD_", "LC_", "LANG", "OMP_", "MKL_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "DATASETS_",
    "CUDA_",    "XDG_", "HOME", "TMPDIR",
)  # fmt: skip
"""Beginnings of variables that are read while an interpreter starts, or a library is imported."""

_server: "Server | None" = None


class Server:
    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="warm-")
        self.path = f"{self.folder}/socket"
        self.environment = _at_start(os.environ)
        words = [sys.executable, str(Path(__file__).with_name("warm_server.py")), self.path]
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


def server() -> Server | None:
    """The server of this process, started at the first call; None where the environment is another than its own."""
    global _server
    if _server is None:
        _server = Server()
    return _server if _at_start(os.environ) == _server.environment else None


class Process:
    """A started command, with the part of subprocess.Popen's interface that the tests use; its output is text."""

    def __init__(self, at: Server, arguments: Sequence[str], stdout: int, stderr: int, session: bool):
        self.args, self.returncode = list(arguments), None
        out, err, theirs = None, None, list[int]()
        if stdout == subprocess.PIPE:
            out, stdout = os.pipe()
            theirs.append(stdout)
        if stderr == subprocess.PIPE:
            err, stderr = os.pipe()
            theirs.append(stderr)
        stderr = stdout if stderr == subprocess.STDOUT else stderr
        request = {"argv": self.args, "cwd": str(Path.cwd()), "env": dict(os.environ), "session": session}
        message = json.dumps(request).encode()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(at.path)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123
            self._connection.send(struct.pack("i", len(message)))
            socket.send_fds(self._connection, [message[:1]], [nothing.fileno(), stdout, stderr])
            self._connection.sendall(message[1:])
        for fd in theirs:
            os.close(fd)
        self.pid: int = struct.unpack("i", self._connection.recv(4))[0]
        self.stdout: IO[str] | None = None if out is None else open(out, encoding="utf-8")  # noqa: SIM115, PTH123
        self.stderr: IO[str] | None = None if err is None else open(err, encoding="utf-8")  # noqa: SIM115, PTH123

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        said: dict[str, str] = {}

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
    arguments: Sequence[object], stdout: int = subprocess.PIPE, stderr: int = subprocess.STDOUT, session: bool = True
) -> Any:
    """The launcher with these arguments: a Process, or where the environment is not the server's, a Popen."""
    words = list(map(str, arguments))
    if (at := server()) is not None:
        return Process(at, ["launcher", *words], stdout, stderr, session)
    command = [sys.executable, "-m", "launcher", *words]
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, start_new_session=session)


def run(arguments: Sequence[object], timeout: float) -> subprocess.CompletedProcess[str]:
    """As subprocess.run with captured output."""
    process = start(arguments, stderr=subprocess.PIPE, session=False)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
