"""The port of the rendezvous."""

import os
import socket

from launcher.health import ports


def test_a_taken_port_is_found_with_the_process_that_has_it():
    with socket.create_server(("", 0)) as listening:
        port = listening.getsockname()[1]
        (found,) = ports.probed(str(port))
    assert found.level == "failure"
    assert found.found.startswith(f"port {port} of MASTER_PORT is taken by process {os.getpid()} (")
    assert ports.probed(str(port))[0].level == "ok"


def test_values_that_are_no_port():
    assert [ports.probed(value)[0].level for value in ("", "x", "99999")] == ["ok", "failure", "failure"]


def test_the_profile_comes_before_the_environment():
    assert ports.requested({"MASTER_PORT": "1"}, {"MASTER_PORT": "2"}) == "1"
    assert [ports.requested({}, {"MASTER_PORT": "2"}), ports.requested({}, {})] == ["2", ""]
