"""The checks of other nodes, read from the processes that make them there."""

import json
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from pydantic import TypeAdapter, ValidationError

from launcher.config.errors import one_line
from launcher.health.finding import Check, Finding
from launcher.tools.doctor.machine_checks import Step
from launcher.tools.doctor.node_process import MARK

SECONDS = 900.0
"""Seconds for all nodes, the time in a queue included."""
_STARTED = Check("network", "nodes")
_CURE = "look at what it printed; try the command by hand"
_BUSY = ("Requested nodes are busy", "Immediate execution impossible")
"""Words of Slurm if no nodes are free within the time that `srun --immediate` waits."""
_CURE_BUSY = "run it inside an allocation (salloc), or later"
_ADAPTER = TypeAdapter(Finding)


@dataclass
class _Node:
    """A command that checks one node or all. `findings`: how many have arrived. `last`: its last lines of errors."""

    host: str
    process: "subprocess.Popen[str]"
    findings: int = 0
    last: deque[str] = field(default_factory=lambda: deque(maxlen=3))


def steps(commands: Mapping[str, Sequence[str]], seconds: float = SECONDS) -> Iterator[Step]:
    """Start the commands, and yield what they find, as it arrives. `commands`: by host, as of
    `Scheduler.node_commands`. A command that finds nothing has failed."""
    arrived: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
    nodes = [_start(host, argv, arrived) for host, argv in commands.items()]
    deadline, left = time.monotonic() + seconds, len(nodes)
    try:
        while left and time.monotonic() < deadline:
            with suppress(queue.Empty):
                step = arrived.get(timeout=1.0)
                left -= step is None
                if step is not None:
                    yield step
        for node in nodes:
            yield from _failure(node, seconds)
    finally:
        for node in nodes:
            _end(node.process)


def _start(host: str, argv: Sequence[str], arrived: "queue.SimpleQueue[Step | None]") -> _Node:
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    node = _Node(host, process)
    assert process.stdout is not None and process.stderr is not None
    errors = threading.Thread(target=_keep_lines, args=(process.stderr, node), daemon=True)
    errors.start()
    threading.Thread(target=_read, args=(process.stdout, node, errors, arrived), daemon=True).start()
    return node


def _read(source: IO[str], node: _Node, errors: threading.Thread, arrived: "queue.SimpleQueue[Step | None]") -> None:
    """Put the steps and findings of a command into a queue, and None at its end."""
    for line in source:
        _, mark, text = line.partition(MARK)
        with suppress(ValueError, ValidationError, KeyError, TypeError):
            value = json.loads(text) if mark else {}
            if "step" in value:
                arrived.put(str(value["step"]))
            elif value:
                arrived.put(_ADAPTER.validate_python(value))
                node.findings += 1
    node.process.wait()
    errors.join(5)
    arrived.put(None)


def _keep_lines(source: IO[str], node: _Node) -> None:
    for line in source:
        if line.strip():
            node.last.append(one_line(line.strip())[:200])


def _failure(node: _Node, seconds: float) -> list[Finding]:
    """Return the finding about a command that has failed; none if it has not."""
    who = node.host or "the job of the nodes"
    code = node.process.poll()
    if code is None:
        return [_STARTED.failure(f"{who} has not ended its checks in {seconds:.0f} s", _CURE)]
    if code == 0 and node.findings:
        return []
    why = "; ".join(node.last) or f"exit code {code}"
    if any(words in why for words in _BUSY):
        return [_STARTED.warning(f"the nodes are busy, so that only this machine was looked at: {why}", _CURE_BUSY)]
    what = "ended before its checks were done" if node.findings else "could not be checked"
    return [_STARTED.failure(f"{who} {what}: {why}", _CURE)]


def _end(process: "subprocess.Popen[str]") -> None:
    """End a command. Its process on another node follows, since its standard input ends."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
