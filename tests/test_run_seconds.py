"""Every second of a real run on two ranks is accounted for: a killed rank, a killed launcher, a stop, and pauses."""

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import support

RUN = Path("runs/counted")
SAVED_EVERY = 40


@dataclass
class Observed:
    """What is seen from outside, by this process's clock. `down`, `lost`: seconds."""

    begun: float = field(default_factory=time.monotonic)
    down: float = 0.0
    lost: float = 0.0


def ranks_of(writer="rank"):
    """Names of the processes of rank 0 so far, which begin with their ids."""
    lines = [json.loads(line) for line in (RUN / "ledger.jsonl").read_text().splitlines() if line.endswith("}")]
    return list(dict.fromkeys(line["process"] for line in lines if line["writer"] == writer))


def seen(step, process):
    """Wait for a step, and return the time at which its record is there."""
    support.wait_for_step(RUN, step, process)
    return time.monotonic()


def kill_after(step, process, kill):
    """Kill when this step is reached. Returns the time, and the seconds since the last checkpoint before it."""
    saved = seen(step // SAVED_EVERY * SAVED_EVERY, process)
    seen(step, process)
    kill()
    return time.monotonic(), time.monotonic() - saved


def test_the_parts_add_up_to_the_wall_clock_and_failures_are_where_they_were_made(tmp_path, monkeypatch):
    """Only here are the parts compared with clocks outside of the run, over processes that die without a word."""
    monkeypatch.chdir(tmp_path)
    support.plugin("slow", support.SLOW)
    recipe = support.small(
        "counted", train__steps=135, checkpoint={"every": SAVED_EVERY, "keep": 2},
        data__validation={"fraction": 0.2}, evaluate__every=60, sinks=["jsonl", {"kind": "own.slow"}],
    )  # fmt: skip
    command = ("run", support.write(recipe), "--ranks", 2, "--max-restarts", 1)
    support.launcher("recipes")  # the server that commands are forked from is there
    outside = Observed()

    process = support.start(*command)
    killed, lost = kill_after(75, process, lambda: os.kill(int(ranks_of()[0].split("-")[0]), signal.SIGKILL))
    support.wait_for(lambda: len(ranks_of()) == 2, 120)
    age = time.time() - psutil.Process(int(ranks_of()[1].split("-")[0])).create_time()
    outside.down, outside.lost = time.monotonic() - age - killed, lost

    killed, lost = kill_after(115, process, lambda: support.kill_group(process))
    time.sleep(3)
    outside.down, outside.lost = outside.down + time.monotonic() - killed, outside.lost + lost

    process = support.start(*command)
    seen(122, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75
    stopped = time.monotonic()
    time.sleep(2)
    outside.down += time.monotonic() - stopped

    process = support.start(*command)
    support.wait_for(lambda: (RUN / "jobs.jsonl").read_text().count('"ended"') == 2, 240)
    wall = time.monotonic() - outside.begun
    assert process.wait(120) == 0

    (status,) = json.loads(support.launcher("status", RUN, "--json").stdout)
    parts = status["time"]["parts"]
    assert sum(parts.values()) == pytest.approx(wall, rel=0.01)
    assert status["time"]["goodput"] == pytest.approx(
        (parts["data"] + parts["compute"] + parts["communicate"]) / sum(parts.values())
    )
    assert support.records(RUN)[-2]["goodput"] == pytest.approx(status["time"]["goodput"], abs=0.05)
    assert parts["lost"] + parts["down"] == pytest.approx(outside.lost + outside.down, abs=0.1 * wall)
    assert parts["lost"] == pytest.approx(outside.lost, abs=0.1 * wall)
    assert parts["down"] == pytest.approx(outside.down, abs=0.1 * wall)
    assert min(parts[purpose] for purpose in ("start", "prepare", "save", "evaluate", "data", "communicate")) > 0
    shown = support.launcher("status", RUN).stdout
    assert f"goodput {status['time']['goodput']:.1%}" in shown
