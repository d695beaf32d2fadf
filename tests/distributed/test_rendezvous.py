"""Messages between the processes of a start, and the store that one of them serves."""

import shutil
import socket
import threading

import pytest

from launcher.distributed.rendezvous import MessageFolder, serve_store
from launcher.distributed.stop_requests import StoppedBeforeTraining


def never():
    return False


def test_messages_are_read_by_name_and_half_written_ones_are_not(tmp_path):
    messages = MessageFolder(tmp_path / "a/b")
    assert messages.read(["x"]) == {}
    messages.post("x", {"port": 1})
    (messages.path / "y.json").write_text('{"port"')
    assert messages.read(["x", "y", "z"]) == {"x": {"port": 1}}


def test_messages_are_waited_for_until_all_are_there(tmp_path):
    messages = MessageFolder(tmp_path)
    messages.post("x", {})
    later = threading.Timer(0.2, messages.post, ("y", {"late": True}))
    later.start()
    assert messages.wait(["x", "y"], 30, never) == {"x": {}, "y": {"late": True}}
    later.join()


def test_missing_messages_are_reported_and_left_out_in_the_end(tmp_path):
    messages, missing = MessageFolder(tmp_path), []
    messages.post("x", {})
    assert messages.wait(["x", "y"], 0.2, never, lambda waited, names: missing.append(names)) == {"x": {}}
    assert missing and all(names == ["y"] for names in missing)


def test_a_stop_request_ends_the_waiting(tmp_path):
    with pytest.raises(StoppedBeforeTraining):
        MessageFolder(tmp_path).wait(["x"], 30, lambda: True)


def test_a_folder_that_another_start_removes_is_created_again(tmp_path):
    messages = MessageFolder(tmp_path / "runs/.rendezvous")
    messages.post("x", {})
    shutil.rmtree(tmp_path / "runs")
    messages.post("x", {"again": True})
    messages.remove("x")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_served_at_a_port_that_was_open_before():
    import torch.distributed as dist

    store, port = serve_store(socket.create_server(("127.0.0.1", 0)), "127.0.0.1")
    dist.TCPStore("127.0.0.1", port, is_master=False).set("key", "value")
    assert store.get("key") == b"value"
