"""Messages between the processes of a start, and the store that one of them serves."""

import errno
import os
import shutil
import socket
import threading
from pathlib import Path

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


def test_a_shared_folder_that_others_use_stays(tmp_path):
    """Also one that was there before, and is the user's."""
    (tmp_path / "runs").mkdir()
    one, other = MessageFolder(tmp_path / "runs/.rendezvous"), MessageFolder(tmp_path / "runs/.rendezvous")
    one.post("x", {})
    other.post("y", {})
    one.remove("x")
    assert other.read(["y"]) == {"y": {}}
    other.remove("y")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_folder_that_is_removed_again_and_again_gets_its_message(tmp_path, monkeypatch):
    mkdir, removed = Path.mkdir, []

    def removed_at_once(path, *arguments, **options):
        mkdir(path, *arguments, **options)
        if len(removed) < 10:
            removed.append(path.rmdir())

    monkeypatch.setattr(Path, "mkdir", removed_at_once)
    messages = MessageFolder(tmp_path / ".rendezvous")
    messages.post("x", {"port": 1})
    assert messages.read(["x"]) == {"x": {"port": 1}}


def test_a_folder_that_cannot_be_read_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    listdir, errors = os.listdir, [errno.ESTALE, errno.EIO]

    def broken(path):
        if errors:
            raise OSError(errors.pop(), "the disk went away", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", broken)
    messages = MessageFolder(tmp_path)
    messages.post("x", {})
    assert messages.wait(["x"], 30, never) == {"x": {}}
    assert (errors, messages.trouble) == ([], "")
    errors += [errno.EIO] * 1000
    assert messages.wait(["x"], 0.2, never) == {}
    assert messages.trouble == f"{tmp_path} cannot be read: the disk went away"


def test_a_message_that_cannot_be_read_hides_no_other(tmp_path):
    messages = MessageFolder(tmp_path)
    (tmp_path / "a.json").mkdir()
    messages.post("b", {})
    assert messages.read(["a", "b"]) == {"b": {}}
    assert messages.trouble == f"{tmp_path}/a.json cannot be read: Is a directory"


def test_a_store_is_served_at_a_port_that_was_open_before():
    import torch.distributed as dist

    store, port = serve_store(socket.create_server(("127.0.0.1", 0)), "127.0.0.1")
    dist.TCPStore("127.0.0.1", port, is_master=False).set("key", "value")
    assert store.get("key") == b"value"
