"""Nodes meet: all of them decide alike, and unhealthy ones are named."""

import concurrent.futures
import json
import socket
import threading
import time

from launcher.distributed import health_check, node_rendezvous
from launcher.distributed.node_rendezvous import Node
from launcher.distributed.rendezvous import MessageFolder
from launcher.distributed.stop_requests import StoppedBeforeTraining
from launcher.health import disks

HERE = ("127.0.1.1", "127.0.1.2", "127.0.1.3")


def join_all(folder, hosts, least=None, absent=(), should_stop=lambda: False):
    """What each node got, or the error that it raised; the nodes are threads here."""

    def one(index):
        try:
            return node_rendezvous.join(folder / "job-0", Node(index, hosts), least or len(hosts), should_stop)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
        found = {i: pool.submit(one, i) for i in range(len(hosts)) if i not in absent}
        return {i: future.result(timeout=60) for i, future in found.items()}


def test_all_nodes_get_the_same_store(tmp_path):
    found = join_all(tmp_path, HERE)
    assert {(place.host, place.port) for place in found.values()} == {("127.0.1.1", found[0].port)}
    with socket.create_connection(("127.0.1.1", found[0].port), timeout=5):  # it is served when it is told
        pass
    assert all(place.excluded == {} for place in found.values())


def test_a_name_that_does_not_resolve_is_named_in_seconds(tmp_path):
    begin = time.monotonic()
    found = join_all(tmp_path, (*HERE[:2], "nowhere.invalid"))
    assert time.monotonic() - begin < 15
    for error in found.values():
        assert isinstance(error, node_rendezvous.UnhealthyNodes)
        assert list(error.why) == ["nowhere.invalid"]
        assert error.why["nowhere.invalid"].startswith("its name does not resolve on 127.0.1.")


def test_enough_nodes_go_on_without_it(tmp_path):
    found = join_all(tmp_path, (*HERE[:2], "nowhere.invalid"), least=2)
    assert list(found[0].excluded) == list(found[1].excluded) == ["nowhere.invalid"]
    assert found[0].port == found[1].port
    assert isinstance(found[2], node_rendezvous.NodeNotNeeded)


def test_a_node_that_never_comes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(node_rendezvous, "REPORT_SECONDS", 1.0)
    found = join_all(tmp_path, HERE, absent=[1])
    for error in found.values():
        assert list(error.why) == ["127.0.1.2"] and error.why["127.0.1.2"].startswith("has not reported in 1 s")


def test_a_node_is_told_why_it_sees_no_report(tmp_path, monkeypatch):
    def broken(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(node_rendezvous, "REPORT_SECONDS", 0.2)
    monkeypatch.setattr(health_check, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr("launcher.distributed.rendezvous.os.listdir", broken)
    (error,) = join_all(tmp_path, HERE[:1]).values()
    assert error.why["127.0.1.1"].endswith(f"({tmp_path}/job-0 cannot be read: Input/output error)")


def test_missing_nodes_are_logged_once_with_the_purpose(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(node_rendezvous, "NOTICE_SECONDS", 0.2)
    assert list(node_rendezvous._wait(MessageFolder(tmp_path), "report", HERE[:2], 0.6, lambda: False)) == []
    assert caplog.messages == ["waiting for 127.0.1.1, 127.0.1.2 to report"]
    caplog.clear()
    monkeypatch.setattr(node_rendezvous, "NOTICE_SECONDS", 20.0)
    assert list(node_rendezvous._wait(MessageFolder(tmp_path), "report", HERE[:2], 0.6, lambda: False)) == []
    assert caplog.messages == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        disks, "temporary_problem", lambda: None if threading.current_thread().name.endswith("_0") else "full"
    )
    found = join_all(tmp_path, HERE)
    assert {host for error in found.values() for host in error.why} <= set(HERE)
    assert all(isinstance(error, node_rendezvous.UnhealthyNodes) for error in found.values())


def test_a_node_that_reports_a_problem_is_left_out(tmp_path):
    def one(index):
        try:
            unfit = "has no cuda device that torch can use" if index == 2 else None
            return node_rendezvous.join(tmp_path / "job-0", Node(index, HERE), 2, lambda: False, unfit)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(HERE)) as pool:
        found = list(pool.map(one, range(len(HERE))))
    assert found[0].excluded == found[1].excluded == {HERE[2]: "has no cuda device that torch can use"}
    assert isinstance(found[2], node_rendezvous.NodeNotNeeded)


def test_a_stop_request_ends_the_waiting(tmp_path):
    stopped = join_all(tmp_path, HERE, absent=[1], should_stop=lambda: True)
    assert all(isinstance(error, StoppedBeforeTraining) for error in stopped.values())


def test_outcomes_and_the_conclusion_reach_the_other_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(node_rendezvous, "OUTCOME_SECONDS", 0.5)
    node_rendezvous.post_outcome(tmp_path, Node(0, HERE), {"code": 0})
    node_rendezvous.post_outcome(tmp_path, Node(2, HERE), {"code": 75})
    assert node_rendezvous.wait_for_outcomes(tmp_path, Node(0, HERE), HERE, False) == {
        "127.0.1.1": {"host": "127.0.1.1", "code": 0},
        "127.0.1.3": {"host": "127.0.1.3", "code": 75},
    }
    gone = node_rendezvous.Rendezvous(HERE[0], 1, {})
    assert node_rendezvous.wait_for_conclusion(tmp_path, gone, 69) == 69
    node_rendezvous.post_conclusion(tmp_path, 75)
    assert node_rendezvous.wait_for_conclusion(tmp_path, gone, 69) == 75


def test_outcomes_are_those_of_the_nodes_that_took_part(tmp_path):
    node_rendezvous.post_outcome(tmp_path, Node(0, HERE), {"code": 0})
    node_rendezvous.post_outcome(tmp_path, Node(2, HERE), {"code": 0})
    assert list(node_rendezvous.wait_for_outcomes(tmp_path, Node(0, HERE), (HERE[0], HERE[2]), True)) == [
        HERE[0],
        HERE[2],
    ]


def test_dead_agents_are_not_waited_for_and_living_ones_are(tmp_path, monkeypatch):
    """The second node answers no more, as when its agent was killed; the third is slow to end."""
    monkeypatch.setattr(node_rendezvous, "OUTCOME_SECONDS", 1000.0)
    folder, found = tmp_path / "job-0", join_all(tmp_path, HERE)
    node_rendezvous.post_outcome(folder, Node(0, HERE), {"code": 1})
    found[1].answering.shutdown(socket.SHUT_RDWR)
    found[1].answering.close()
    late = threading.Timer(6.0, node_rendezvous.post_outcome, (folder, Node(2, HERE), {"code": 1}))
    late.start()
    checked, dead_agents = [], health_check.dead_agents
    monkeypatch.setattr(
        health_check, "dead_agents", lambda nodes: [checked.append(sorted(nodes)), dead_agents(nodes)][1]
    )
    assert list(node_rendezvous.wait_for_outcomes(folder, Node(0, HERE), HERE, True)) == [HERE[0], HERE[2]]
    assert checked[:3] == [[1, 2], [1, 2], [2]] and all(nodes in ([2], []) for nodes in checked[3:])
    late.join()


def test_a_half_written_message_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(node_rendezvous, "OUTCOME_SECONDS", 0.3)
    (tmp_path / "ended-0.json").write_text('{"code"')
    assert node_rendezvous.wait_for_outcomes(tmp_path, Node(0, HERE[:1]), HERE[:1], False) == {}
    (tmp_path / "ended-0.json").write_text(json.dumps({"code": 0}))
    assert node_rendezvous.wait_for_outcomes(tmp_path, Node(0, HERE[:1]), HERE[:1], False) == {HERE[0]: {"code": 0}}
