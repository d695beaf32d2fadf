"""The devices of a node, tried in a process of its own."""

import sys

import pytest

from launcher.launch import device_check


def test_the_cpu_is_not_tried(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert device_check.unfit("cpu", 4) is None


def test_a_node_without_a_usable_device_says_so():
    """With torch itself, which takes some seconds to import."""
    assert device_check.unfit("mps", 1) == "has no mps device that torch can use"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("print('Welcome to the cluster!')", None),
        ("import os; os.kill(os.getpid(), 15)", None),
        (
            "print('Welcome!'); print(sys.argv[3] + 'its cuda:1 does not compute: unspecified launch failure')",
            "its cuda:1 does not compute: unspecified",
        ),
        ("raise SystemExit(139)", "its cuda devices could not be tried (exit code 139)"),
        ("import os; os.kill(os.getpid(), 11)", "its cuda devices could not be tried (exit code -11)"),
    ],
)
def test_what_a_driver_may_do(monkeypatch, body, expected):
    monkeypatch.setattr(device_check, "_TRY", f"import sys; {body}")
    found = device_check.unfit("cuda", 2)
    assert found == expected or found.startswith(expected)


def test_a_driver_that_hangs(monkeypatch):
    monkeypatch.setattr(device_check, "_TRY", "import time; time.sleep(60)")
    monkeypatch.setattr(device_check, "SECONDS", -3.5)
    assert device_check.unfit("cuda", 2) == "its cuda devices have not answered in 0 s"
