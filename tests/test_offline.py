"""After `prepare` nothing is needed from a network: shown where there is none."""

import os
import re
import shutil
import subprocess

import pytest
import support

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a namespace without a network takes root"),
    pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a prepared recipe whose model is a folder of weights."""
    home = tmp_path_factory.mktemp("offline")
    support.corpus(home)
    file = support.write(support.mlm("offline", data__train__path=str(home / "corpus.txt")), home / "recipe.yaml")
    support.launcher("prepare", file)
    return home


def isolated(*command, cwd):
    return subprocess.run(
        ["unshare", "--net", *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
    )  # fmt: skip


def test_one_rank_trains_without_any_network(prepared):
    done = isolated(*support.command("run", "recipe.yaml", "--ranks", 1, "name=alone"), cwd=prepared)
    assert done.returncode == 0, done.stderr
    assert len(support.steps(prepared / "runs/alone")) == 6


@pytest.mark.skipif(not shutil.which("strace") or not shutil.which("ip"), reason="strace and ip are not installed")
def test_two_ranks_train_over_the_loopback_and_nothing_tries_to_connect_elsewhere(prepared):
    run = " ".join(support.command("run", "recipe.yaml", "--ranks", 2, "name=two"))
    script = f"ip link set lo up && exec strace -f -qq -e trace=connect,sendto -o trace {run}"
    done = isolated("sh", "-c", script, cwd=prepared)
    assert done.returncode == 0, done.stderr
    assert len(support.steps(prepared / "runs/two")) == 6
    calls = [
        line for line in (prepared / "trace").read_text().splitlines() if "sin_addr" in line or "sin6_addr" in line
    ]
    assert calls
    assert [line for line in calls if not re.search(r"127\.0\.0\.1|\"::1\"", line)] == []


def test_without_a_loopback_two_ranks_are_refused_in_a_sentence(prepared):
    done = isolated(*support.command("run", "recipe.yaml", "--ranks", 2, "name=dark"), cwd=prepared)
    assert done.returncode == 2
    assert "the loopback interface is down" in done.stderr
