"""Real measuring ranks, of which one is slow, stopped or broken."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
import support

from launcher.distributed import health_check
from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.rendezvous import serve_store
from launcher.health import rank_findings, rank_measurement
from launcher.health.rank_measurement import Place


@contextmanager
def ranks(world, seconds=0.3):
    """The processes, the store, and a function that waits for their findings that are no ok."""
    store, port = serve_store(health_check.listen(("here",)), LOOPBACK)
    places = [Place(rank, world, world, LOOPBACK, port, "cpu", seconds, "lo") for rank in range(world)]
    processes = rank_measurement.start(places, os.environ)

    def problems():
        measured = rank_measurement.collect(processes, store, ["here"] * world, "cpu", world)
        return [(one.level, one.found) for one in rank_findings.findings(measured, "") if one.level != "ok"]

    try:
        yield processes, store, problems
    finally:
        rank_measurement.end(processes)


def test_a_rank_that_gets_a_tenth_of_the_time_is_named():
    """A real process, stopped for 45 of 50 ms: alone this shows that figures of a real slow rank are judged rightly."""
    with ranks(3) as (processes, store, problems):
        support.wait_for(lambda: store.check(["pid/0", "pid/1", "pid/2"]), 240)
        over = threading.Event()

        def slow_down():
            while not over.is_set() and processes[1].poll() is None:
                os.kill(processes[1].pid, signal.SIGSTOP)
                time.sleep(0.045)
                os.kill(processes[1].pid, signal.SIGCONT)
                time.sleep(0.005)

        thread = threading.Thread(target=slow_down)
        thread.start()
        try:
            found = problems()
        finally:
            over.set()
            thread.join()
    failures = [line for level, line in found if level == "failure"]
    named = {
        rank for rank in range(3) for line in failures if f"rank {rank} (here, process {processes[rank].pid})" in line
    }
    assert named == {1}, found


@pytest.mark.parametrize("sent", [signal.SIGSTOP, pytest.param(signal.SIGKILL, marks=pytest.mark.soak)])
def test_a_stopped_or_killed_rank_is_named(sent, monkeypatch):
    """With two ranks, each of which imports torch for some seconds: no other test loses a measuring rank."""
    with ranks(2, seconds=2.0) as (processes, store, problems):
        support.wait_for(lambda: store.check(["pid/0", "pid/1", "compute/0"]), 240)
        os.kill(processes[1].pid, sent)
        found = problems()
    why = "does not answer the others" if sent is signal.SIGSTOP else "has failed (signal 9)"
    assert found and all(level == "failure" for level, _ in found)
    assert found[0][1].startswith(f"rank 1 (here, process {processes[1].pid}) {why}"), found
