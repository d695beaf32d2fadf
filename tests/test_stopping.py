"""Signals at every time of a run: what is saved, how it leaves, and that nothing stays behind."""

import fcntl
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from collections import Counter
from pathlib import Path

import pytest
import support
from support import paused_run

BEFORE = "stopped before training began"
AT_ONCE = "stopped at once: the ranks were ended; "


@pytest.fixture
def temporary(monkeypatch):
    """The folder that temporary files go to, by a short name as sockets need it."""
    folder = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    monkeypatch.setenv("TMPDIR", folder)
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def table():
    """What was seen, printed at the end."""
    rows = []
    yield rows
    print("\nstart       phase       signal     times  exit  saved  seconds  orphans")
    for row in rows:
        print("{:<11} {:<11} {:<10} {:>5} {:>5} {:>6} {:>8.1f} {:>8}".format(*row))


def expected(phase, number, times):
    """The exit code, the step of the newest checkpoint (None: there is none), and what is said."""
    reached = {"starting": None, "preparing": None, "building": 0, "step": 3, "evaluating": 4, "saving": 4}
    before = {"building": None, "step": 2, "evaluating": 2, "saving": 2}
    if number is signal.SIGKILL:
        return -signal.SIGKILL, reached.get(phase, 6), ""
    if phase in ("starting", "preparing"):
        return 75, None, BEFORE
    if phase == "exit":
        return 0, 6, ""
    if phase == "ending":
        return 0, 6, f"{AT_ONCE}all 6 steps are done" if times == 2 else ""
    if times == 1:
        return 75, reached[phase], f"stopped: step {reached[phase]} is saved (start it again and it goes on)"
    if before[phase] is None:
        return 1, None, f"{AT_ONCE}no checkpoint was saved"
    return 75, before[phase], f"{AT_ONCE}step {before[phase]} is saved"


def check(start, phase, number, times, table, temporary, group=False, resume=False, workers=0):
    code, newest, said = expected(phase, number, times)
    paused_run.write(seed=sum(map(ord, f"{temporary}")) if phase == "preparing" else 0, workers=workers)
    end = paused_run.LeaseHeld(start, phase).begin().send(number, times, group).end()
    name = f"{'group ' if group else ''}{number.name[3:]}"
    table.append((start, phase, name, times, end.code, str(max(end.saved, default="-")), end.seconds, len(end.orphans)))
    assert (end.code, max(end.saved, default=None), end.orphans) == (code, newest, []), end.said
    assert said in end.said
    assert "Traceback" not in end.said
    if not said.startswith(AT_ONCE):
        assert max(support.steps("runs/held"), default=0) == (newest or 0)
    if number is not signal.SIGKILL:
        assert list(temporary.iterdir()) == []
    if resume:
        support.launcher("run", "recipe.yaml", "--ranks", 2, *paused_run.STARTS[start])
        assert list(support.steps("runs/held")) == [1, 2, 3, 4, 5, 6]
        assert paused_run.saved()[-1] == 6
        assert list(Path("runs/held/checkpoints").glob(".*")) == []
        assert list(temporary.iterdir()) == []


TERM, INT, HUP, USR1, KILL = paused_run.SIGNALS
SHORT = [
    ("run", "starting", TERM, 1),
    ("run", "preparing", HUP, 1),
    ("run", "building", INT, 2),
    ("run", "saving", USR1, 2),
    ("run", "ending", INT, 2),
    ("run", "exit", TERM, 2),
    ("run", "evaluating", KILL, 1),
    ("torchrun", "step", USR1, 1),
    ("torchrun", "step", TERM, 2),
    ("torchrun", "evaluating", KILL, 1),
    ("accelerate", "saving", HUP, 1),
]


@pytest.mark.parametrize(("start", "phase", "number", "times"), SHORT, ids=lambda value: getattr(value, "name", value))
def test_a_signal_at_any_time_saves_and_leaves_nothing_behind(workspace, temporary, start, phase, number, times):
    """Some of what `make soak` does with all: each phase and each start command at least once; 70 s."""
    check(start, phase, number, times, [], temporary)


@pytest.mark.soak
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", paused_run.SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", paused_run.PHASES)
@pytest.mark.parametrize("start", paused_run.STARTS)
def test_every_start_phase_and_signal(workspace, temporary, table, start, phase, number, times):
    if number is KILL and times == 2:
        pytest.skip("there is nobody left to get it")
    check(start, phase, number, times, table, temporary, resume=number is KILL or (number is TERM and times == 2))


@pytest.mark.soak
@pytest.mark.parametrize("number", [TERM, INT, HUP, USR1], ids=lambda number: number.name)
@pytest.mark.parametrize("phase", paused_run.PHASES)
@pytest.mark.parametrize("start", paused_run.STARTS)
def test_a_signal_to_the_whole_group(workspace, temporary, table, start, phase, number):
    """As Ctrl-C at a terminal, or Slurm, sends it; with loader workers."""
    check(start, phase, number, 1, table, temporary, group=True, workers=1)


@pytest.mark.soak
@pytest.mark.parametrize("start", paused_run.STARTS)
def test_a_save_that_takes_a_minute_is_waited_for(workspace, temporary, start):
    paused_run.write()
    held = paused_run.LeaseHeld(start, "saving").begin()
    os.kill(held.process.pid, TERM)
    time.sleep(60)
    Path("hold-saving").unlink()
    end = held.end()
    assert (end.code, end.saved, end.orphans) == (75, [2, 4], []), end.said


REACHED = {"building": 0, "first": 1, "step": 3, "evaluating": 4, "saving": 4}
"""The step at which all ranks leave, by the window in which they are asked."""
KINDS = ("TERM", "INT", "HUP", "USR1", "STOP", "deadline")
STOPS = [
    ("TERM", "first", 1),
    *(pytest.param(kind, window, 2 if kind == "deadline" else 10, marks=pytest.mark.soak)
      for kind in KINDS for window in REACHED),
]  # fmt: skip


def stop_four_ranks(kind, window, draw, monkeypatch):
    """Start four ranks, hold them in the window, ask the launcher or one rank to stop, and see how they leave."""
    shutil.rmtree("runs/held", ignore_errors=True)
    deadline = time.time() + 30
    monkeypatch.setenv("LAUNCHER_DEADLINE", str(int(deadline)) if kind == "deadline" else "")
    held = paused_run.LeaseHeld("run", window, ranks=4).begin()
    target = draw.choice(["launcher", "0", "1", "2", "3"])
    if kind == "STOP":
        Path("runs/held/STOP").touch()
        time.sleep(1.1)
    elif kind == "deadline":
        time.sleep(max(0.0, deadline - time.time()))
    else:
        pid = held.process.pid if target == "launcher" else int(Path(f"pid-{target}").read_text())
        os.kill(pid, signal.Signals[f"SIG{kind}"])
    time.sleep(draw.uniform(0, 0.3))
    Path(f"hold-{window}").unlink()
    end = held.end()
    last = max(support.steps("runs/held"), default=0)
    assert (end.code, end.saved[-1:], end.orphans) == (75, [last], []), end.said
    # a rank that is not held may wait for the others already, and has then said that it goes on
    assert last - REACHED[window] in ((0,) if target in ("launcher", "0") else (0, 1)), f"{target}: {end.said}"
    return target


@pytest.mark.parametrize(("kind", "window", "count"), STOPS)
def test_four_ranks_leave_at_the_same_step_and_lose_none(workspace, temporary, monkeypatch, kind, window, count):
    """As asked by a signal to the launcher or to one rank, by the file STOP, or by the deadline; 6 s each time."""
    draw = random.Random(f"{kind} {window}")
    paused_run.write()
    asked = Counter(stop_four_ranks(kind, window, draw, monkeypatch) for _ in range(count))
    print(f"\n{kind:<8} in {window:<10} {count:>3} stops, all at one step with 75, 0 steps lost; asked: {dict(asked)}")


@pytest.mark.parametrize("start", ["run", "torchrun"])
def test_a_terminal_that_closes_takes_nothing_with_it(workspace, temporary, start):
    """Whoever writes to it gets an error from then on: the console of rank 0, and the launcher's last words. 6 s each,
    since the starters differ: the ranks of torchrun hear of no terminal."""
    paused_run.write(sinks=["console", "jsonl", {"kind": "own.sink"}])
    Path("hold-step").touch()
    mine, its = pty.openpty()
    run = subprocess.Popen(
        support.command("run", "recipe.yaml", "--ranks", 2, *paused_run.STARTS[start]),
        stdin=its, stdout=its, stderr=its,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(its)
    while not Path("at-step").exists():
        if select.select([mine], [], [], 0.1)[0]:
            os.read(mine, 65536)
    os.close(mine)
    time.sleep(0.2)
    Path("hold-step").unlink()
    assert (run.wait(120), paused_run.saved()) == (75, [2, 3])
    support.wait_for(lambda: not paused_run.left())
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "phase", "number", "code"),
    [
        (("evaluate", "runs/held", "--ranks", 2), "looking", INT, 130),
        (("evaluate", "runs/held", "--ranks", 2), "looking", TERM, -TERM),
        (("parity", "recipe.yaml", "--ranks", 2, "--strategies", "ddp"), "measuring", INT, 130),
    ],
    ids=["evaluate-INT", "evaluate-TERM", "parity-INT"],
)
def test_what_only_looks_ends_at_once(workspace, temporary, words, phase, number, code):
    """Its ranks have nothing to save, and no step at whose end they would look for a signal; 8 s each, since a rank has
    to be met at work."""
    paused_run.write()
    if words[0] == "evaluate":
        support.launcher("run", "recipe.yaml", "--ranks", 1)
    Path(f"hold-{phase}").touch()
    looks = subprocess.Popen(support.command(*words), start_new_session=True, preexec_fn=paused_run.hear)
    support.wait_for(Path(f"at-{phase}").exists, 180)
    (os.killpg if number is INT else os.kill)(looks.pid, number)
    assert looks.wait(30) == code
    support.wait_for(lambda: not paused_run.left(), 15)
    if number is INT:
        assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("number", "group"), [(TERM, False), (INT, True), (HUP, True), (KILL, False)])
def test_processes_that_prepare_end_with_the_launcher(workspace, temporary, number, group):
    """Much data is prepared in processes of their own; 3 s each."""
    paused_run.write(seed=sum(map(ord, f"{temporary}")), rows=1_500_000)
    end = paused_run.LeaseHeld("run", "preparing").begin()
    assert any("--multiprocessing-fork" in line for line in paused_run.left())
    end.send(number, 2 if number is TERM else 1, group).end()
    assert (end.code, end.orphans) == (-KILL if number is KILL else 75, []), end.said
    assert "Traceback" not in end.said
    assert number is KILL or (BEFORE in end.said and list(temporary.iterdir()) == [])
