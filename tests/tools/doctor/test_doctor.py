"""`launcher doctor` on this machine, by its command line."""

import json
import socket

import pytest
import support

KEY = "canary0123456789canary0123456789canary01"
SHAPE = {"group": str, "check": str, "level": str, "found": str, "cure": str, "host": str}


@pytest.fixture
def doctored(workspace, monkeypatch):
    """Runs doctor, and returns its JSON."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*words, code):
        done = support.launcher("doctor", "--json", *words, code=code, timeout=600)
        return json.loads(done.stdout), done

    return run


def test_a_sound_machine_has_no_failure_and_shows_no_secret(doctored, monkeypatch):
    """The whole command, with two real ranks and the import of deepspeed."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for _ in range(3):  # another test may slow a rank down for a moment
        found, done = doctored("--ranks", 2, code=None)
        if done.returncode == 0:
            break
    assert {key: type(value) for key, value in found.items()} == {
        "format": int, "profile": str, "kind": str, "level": str, "checks": list
    }  # fmt: skip
    assert (found["format"], found["profile"], found["kind"]) == (1, "local", "local")
    assert done.returncode == 0
    assert [line["found"] for line in found["checks"] if line["level"] == "failure"] == []
    for line in found["checks"]:
        assert {key: type(value) for key, value in line.items()} == SHAPE
        assert (line["level"] == "ok") == (line["cure"] == ""), line
        assert line["host"] == socket.gethostname()
    names = {line["check"] for line in found["checks"]}
    assert names >= {
        "packages", "devices", "memory", "open files", "/dev/shm", "cache", "host name", "interfaces", "port",
        "matrix product", "all-reduce", "hub", "wandb key",
    }  # fmt: skip
    assert KEY not in done.stdout + done.stderr
    assert "looking at disks\n" in done.stderr


@pytest.mark.parametrize("words", [["train.steps=3"], ["--cluster", "nowhere"], ["cluster.nodes=x"]])
def test_a_profile_that_is_wrong_has_exit_code_2(words, workspace):
    done = support.launcher("doctor", *words, code=2)
    assert done.stdout == "" and done.stderr
