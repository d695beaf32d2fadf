"""Nodes meet: all of them decide alike, and whoever is unfit is named."""

import concurrent.futures
import json
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.distributed import health_check, node_rendezvous
from launcher.distributed.node_rendezvous import Node

HERE = ("127.0.1.1", "127.0.1.2", "127.0.1.3")


def met(folder, hosts, least=None, absent=(), stop=None):
    """What each node of a meeting found, or the error it met with; the nodes are threads here."""

    def one(index):
        try:
            return node_rendezvous.meet(
                folder / "job-0", Node(index, hosts), least or len(hosts), stop or folder / "stop"
            )
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
        found = {i: pool.submit(one, i) for i in range(len(hosts)) if i not in absent}
        return {i: future.result(timeout=60) for i, future in found.items()}


def test_all_find_the_same_store(tmp_path):
    found = met(tmp_path, HERE)
    assert {(place.host, place.port) for place in found.values()} == {("127.0.1.1", found[0].port)}
    with socket.create_connection(("127.0.1.1", found[0].port), timeout=5):  # it is served when it is told
        pass
    assert all(place.left == {} for place in found.values())


def test_a_name_that_does_not_resolve_is_named_in_seconds(tmp_path):
    begin = time.monotonic()
    found = met(tmp_path, (*HERE[:2], "nowhere.invalid"))
    assert time.monotonic() - begin < 15
    for error in found.values():
        assert isinstance(error, node_rendezvous.UnhealthyNodes)
        assert list(error.why) == ["nowhere.invalid"]
        assert error.why["nowhere.invalid"].startswith("its name does not resolve on 127.0.1.")


def test_enough_nodes_go_on_without_it(tmp_path):
    found = met(tmp_path, (*HERE[:2], "nowhere.invalid"), least=2)
    assert list(found[0].left) == list(found[1].left) == ["nowhere.invalid"]
    assert found[0].port == found[1].port
    assert isinstance(found[2], node_rendezvous.NodeNotNeeded)


def test_a_name_that_leads_to_another_node_is_found():
    hosts = ("127.0.1.2", "127.0.1.1", "127.0.1.1")  # the second and the third have one address
    with health_check.listening(hosts, 1, "job-0") as door:
        port = door.getsockname()[1]
        assert health_check.missed(Node(0, hosts), 1, port, "job-0") is None
        assert health_check.missed(Node(0, hosts), 2, port, "job-0").startswith("its name leads elsewhere on 127.0.1.2")
        assert health_check.missed(Node(0, hosts), 1, port, "job-1").startswith("its name leads elsewhere on 127.0.1.2")


def test_a_node_that_never_comes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(node_rendezvous, "REPORT", 1.0)
    found = met(tmp_path, HERE, absent=[1])
    for error in found.values():
        assert list(error.why) == ["127.0.1.2"] and error.why["127.0.1.2"].startswith("has not reported in 1 s")


def test_who_is_waited_for_long_is_told_once_and_for_what(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(node_rendezvous, "TELL", 0.2)
    assert list(node_rendezvous._hear(tmp_path, "report", HERE[:2], 0.6, None)) == []
    told = "waiting for 127.0.1.1, 127.0.1.2 to report\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(node_rendezvous, "TELL", 20.0)
    assert list(node_rendezvous._hear(tmp_path, "report", HERE[:2], 0.6, None)) == []
    assert capsys.readouterr().err == ""


def test_a_disk_that_takes_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        node_rendezvous, "_disk", lambda: None if threading.current_thread().name.endswith("_0") else "full"
    )
    found = met(tmp_path, HERE)
    assert {host for error in found.values() for host in error.why} <= set(HERE)
    assert all(isinstance(error, node_rendezvous.UnhealthyNodes) for error in found.values())


def test_a_node_that_knows_itself_unfit_is_left_out(tmp_path):
    def one(index):
        try:
            unfit = "has no cuda device that torch can use" if index == 2 else None
            return node_rendezvous.meet(tmp_path / "job-0", Node(index, HERE), 2, tmp_path / "stop", unfit)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(HERE)) as pool:
        found = list(pool.map(one, range(len(HERE))))
    assert found[0].left == found[1].left == {HERE[2]: "has no cuda device that torch can use"}
    assert isinstance(found[2], node_rendezvous.NodeNotNeeded)


def test_being_told_to_leave_ends_the_waiting(tmp_path):
    (tmp_path / "stop").touch()
    assert all(isinstance(error, node_rendezvous.NodeStopped) for error in met(tmp_path, HERE, absent=[1]).values())


def test_how_nodes_ended_and_what_was_concluded(tmp_path, monkeypatch):
    monkeypatch.setattr(node_rendezvous, "LEAVE", 0.5)
    node_rendezvous.end(tmp_path, Node(0, HERE), {"code": 0})
    node_rendezvous.end(tmp_path, Node(2, HERE), {"code": 75})
    assert node_rendezvous.ends(tmp_path, Node(0, HERE), HERE, False) == {
        "127.0.1.1": {"host": "127.0.1.1", "code": 0},
        "127.0.1.3": {"host": "127.0.1.3", "code": 75},
    }
    gone = node_rendezvous.Place(HERE[0], 1, {})
    assert node_rendezvous.concluded(tmp_path, gone, 69) == 69
    node_rendezvous.conclude(tmp_path, 75)
    assert node_rendezvous.concluded(tmp_path, gone, 69) == 75


def test_how_those_ended_that_took_part_without_one_between_them(tmp_path):
    node_rendezvous.end(tmp_path, Node(0, HERE), {"code": 0})
    node_rendezvous.end(tmp_path, Node(2, HERE), {"code": 0})
    assert list(node_rendezvous.ends(tmp_path, Node(0, HERE), (HERE[0], HERE[2]), True)) == [HERE[0], HERE[2]]


def test_who_is_gone_is_not_waited_for_and_who_answers_is(tmp_path, monkeypatch):
    """The door of the second is shut, as when its agent was killed; the third is slow to end."""
    monkeypatch.setattr(node_rendezvous, "LEAVE", 1000.0)
    folder, found = tmp_path / "job-0", met(tmp_path, HERE)
    node_rendezvous.end(folder, Node(0, HERE), {"code": 1})
    found[1].door.shutdown(socket.SHUT_RDWR)
    found[1].door.close()
    late = threading.Timer(6.0, node_rendezvous.end, (folder, Node(2, HERE), {"code": 1}))
    late.start()
    asked, look = [], health_check.gone
    monkeypatch.setattr(health_check, "gone", lambda doors: [asked.append(sorted(doors)), look(doors)][1])
    assert list(node_rendezvous.ends(folder, Node(0, HERE), HERE, True)) == [HERE[0], HERE[2]]
    assert asked[:3] == [[1, 2], [1, 2], [2]] and all(doors in ([2], []) for doors in asked[3:])
    late.join()


def test_a_name_that_does_not_resolve_says_nothing_of_who_lives_there():
    with socket.create_server(("127.0.1.1", 0)) as closed:
        free = closed.getsockname()
    assert health_check.gone({1: ("nowhere.invalid", 1), 2: free}) == {1: False, 2: True}


def test_half_written_words_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(node_rendezvous, "LEAVE", 0.3)
    (tmp_path / "ended-0.json").write_text('{"code"')
    assert node_rendezvous.ends(tmp_path, Node(0, HERE[:1]), HERE[:1], False) == {}
    (tmp_path / "ended-0.json").write_text(json.dumps({"code": 0}))
    assert node_rendezvous.ends(tmp_path, Node(0, HERE[:1]), HERE[:1], False) == {HERE[0]: {"code": 0}}


@pytest.mark.parametrize(
    "failed, blamed",
    [
        ({}, []),
        ({0: {2: "x"}, 1: {2: "y"}}, [2]),
        ({2: {0: "x", 1: "y"}}, [2]),
        ({0: {1: "x"}}, [1]),
        ({0: {1: "x", 3: "y"}, 1: {}, 2: {3: "z", 1: "w"}}, [1, 3]),
    ],
)
def test_the_fewest_nodes_are_blamed(failed, blamed):
    assert sorted(node_rendezvous.blame(failed, range(4))) == blamed


@given(st.dictionaries(st.integers(0, 5), st.dictionaries(st.integers(0, 5), st.just("x"))))
def test_without_the_blamed_all_reach_each_other(failed):
    failed = {i: {j: why for j, why in missed.items() if j != i} for i, missed in failed.items()}
    gone = node_rendezvous.blame(failed, range(6))
    assert not any(j not in gone for i, missed in failed.items() if i not in gone for j in missed)
