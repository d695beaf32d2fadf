"""Kills at all kinds of moments: nothing saved is lost, and the end is that of an undisturbed run, to the last bit."""

import random
import time
from pathlib import Path

import pytest
import support
from support import killed_run

KILLS = [3, pytest.param(100, marks=pytest.mark.soak)]
RANK_KILLS = [2, pytest.param(50, marks=pytest.mark.soak)]


@pytest.mark.parametrize("count", KILLS)
def test_all_processes_are_killed_again_and_again(workspace, count):
    """The power fails, four times in ten while a checkpoint is being written; 15 s. The same command goes on."""
    killed_run.write(steps=40 + 15 * count)
    whole = killed_run.undisturbed()
    Path("slow").touch()
    killer = killed_run.Killer(seed=count)
    while len(killer.kills) < count:
        assert killer.kill_once(), f"it had ended after {len(killer.kills)} kills"
    Path("slow").unlink()
    support.launcher("run", "recipe.yaml", "--ranks", 2, timeout=600)
    killer.table()
    killed_run.same_end(Path("runs/killed"), whole)
    if count >= 20:
        assert sum(kill.saving for kill in killer.kills) >= 0.4 * count
    assert all(kill.saved <= kill.step for kill in killer.kills)
    saved = [kill.saved for kill in killer.kills]
    assert saved == sorted(saved)
    assert not killed_run.saves()


@pytest.mark.parametrize("count", RANK_KILLS)
def test_one_rank_is_killed_again_and_again(workspace, count):
    """One start of the launcher goes on by itself, since it starts the ranks again; 8 s."""
    killed_run.write(steps=20 + 20 * count)
    whole = killed_run.undisturbed()
    Path("slow").touch()
    draw = random.Random(count)
    run = support.start("run", "recipe.yaml", "--ranks", 2, "--max-restarts", count)
    support.wait_for_step("runs/killed", 3, run)
    for kill in range(count):
        support.wait_for(lambda kill=kill: len(killed_run.events("resumed")) == kill or run.poll() is not None, 120)
        time.sleep(draw.uniform(0, 0.3))
        assert run.poll() is None, run.communicate()[0]
        killed_run.kill_rank(kill % 2)
    support.wait_for(lambda: len(killed_run.events("resumed")) == count or run.poll() is not None, 120)
    Path("slow").unlink()
    said = run.communicate(timeout=600)[0]
    assert run.returncode == 0, said
    restarted, resumed = killed_run.events("restarted"), killed_run.events("resumed")
    assert [event["rank"] for event in restarted] == [kill % 2 for kill in range(count)]
    seconds = sorted(event["seconds"] for event in resumed)
    print(f"\n{count} kills of a rank; the next step after {seconds[len(seconds) // 2]:.1f} s (median), "
          f"{seconds[-1]:.1f} s (longest)")  # fmt: skip
    killed_run.same_end(Path("runs/killed"), whole)
