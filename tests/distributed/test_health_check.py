"""Health checks of peers, of this host's devices, and the choice of nodes to leave out."""

import socket
import sys

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_nvml import FakeMachine, FakeNvml

from launcher.distributed import health_check
from launcher.distributed.health_check import Node


def test_a_name_that_leads_to_another_node_is_found():
    hosts = ("127.0.1.2", "127.0.1.1", "127.0.1.1")  # the second and the third have one address
    with health_check.serve_answers(Node(1, hosts), "job-0") as answering:
        port = answering.getsockname()[1]
        assert health_check.peer_problem(Node(0, hosts), 1, port, "job-0") is None
        assert health_check.peer_problem(Node(0, hosts), 2, port, "job-0").startswith(
            "its name leads elsewhere on 127.0.1.2"
        )
        assert health_check.peer_problem(Node(0, hosts), 1, port, "job-1").startswith(
            "its name leads elsewhere on 127.0.1.2"
        )


@pytest.mark.parametrize("answer", ["job-0 1", "job-0 1 noon"])
def test_an_agent_that_sends_no_time_is_of_another_version(monkeypatch, answer):
    monkeypatch.setattr(health_check, "_answer", lambda host, port: answer)
    node = Node(0, ("a", "b"))
    assert health_check.peer_problem(node, 1, 7, "job-0").startswith("answers a without its time")
    assert health_check.clocks_ahead(node, {1: 7}) == {"a": 0.0}


def test_only_a_name_that_does_not_resolve_counts_as_one_whatever_the_host_is_called(monkeypatch):
    def refuse(address, timeout):
        raise ConnectionRefusedError(111, "Connection refused")

    assert health_check.first_reachable(["nowhere.invalid"], 1).unresolved
    monkeypatch.setattr(socket, "create_connection", refuse)
    reached = health_check.first_reachable(["nowhere-1"], 7)
    assert reached == ("", "nowhere-1:7: Connection refused", False)


def test_an_agent_whose_name_does_not_resolve_is_not_dead():
    with socket.create_server(("127.0.1.1", 0)) as closed:
        free = closed.getsockname()
    assert health_check.dead_agents({1: ("nowhere.invalid", 1), 2: free}) == {1: False, 2: True}


@pytest.mark.parametrize(
    "unreached, excluded",
    [
        ({}, []),
        ({0: {2: "x"}, 1: {2: "y"}}, [2]),
        ({2: {0: "x", 1: "y"}}, [2]),
        ({0: {1: "x"}}, [1]),
        ({0: {1: "x", 3: "y"}, 1: {}, 2: {3: "z", 1: "w"}}, [1, 3]),
    ],
)
def test_the_fewest_nodes_are_excluded(unreached, excluded):
    assert sorted(health_check.nodes_to_exclude(unreached, range(4))) == excluded


@given(st.dictionaries(st.integers(0, 5), st.dictionaries(st.integers(0, 5), st.just("x"))))
def test_without_the_excluded_nodes_all_reach_each_other(failed):
    failed = {i: {j: why for j, why in missed.items() if j != i} for i, missed in failed.items()}
    gone = health_check.nodes_to_exclude(failed, range(6))
    assert not any(j not in gone for i, missed in failed.items() if i not in gone for j in missed)


def test_the_cpu_is_not_tried(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert health_check.device_problem("cpu", 4) is None


def test_a_node_without_a_usable_device_has_a_problem():
    """With torch itself, which takes some seconds to import."""
    assert health_check.device_problem("mps", 1) == "has no mps device that torch can use"


def test_a_node_whose_driver_does_not_work_says_why(monkeypatch):
    broken = FakeMachine(FakeNvml(fails=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    monkeypatch.setattr(health_check, "ThisMachine", lambda: broken)
    child = "import sys; print(f'{sys.argv[3]}has no cuda device that torch can use')"
    monkeypatch.setattr(health_check, "_TRY_DEVICES", child)
    said = "has no cuda device that torch can use: the NVIDIA driver is not loaded (load it with modprobe nvidia)"
    assert health_check.device_problem("cuda", 2) == said


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
    monkeypatch.setattr(health_check, "_TRY_DEVICES", f"import sys; {body}")
    found = health_check.device_problem("cuda", 2)
    assert found == expected or found.startswith(expected)


def test_a_driver_that_hangs(monkeypatch):
    monkeypatch.setattr(health_check, "_TRY_DEVICES", "import time; time.sleep(60)")
    monkeypatch.setattr(health_check, "DEVICE_SECONDS", -3.5)
    assert health_check.device_problem("cuda", 2) == "its cuda devices have not answered in 0 s"
