"""The name of this machine: in a pure form, and on a real one whose /etc/hosts is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import support

from launcher.health import hostnames

OWN = ["127.0.0.1", "10.0.0.1"]


@pytest.mark.parametrize(
    ("addresses", "others", "problem"),
    [
        (["10.0.0.1"], ["10.0.0.2"], None),
        (["127.0.1.1"], ["127.0.1.2"], None),  # nodes of one machine
        (["127.0.1.1"], ["10.0.0.2"], "its own name n1 resolves to 127.0.1.1 on it, where no other node reaches it"),
        (["10.9.9.9"], [], "its own name n1 resolves to 10.9.9.9 on it, which is another machine's address"),
        (["10.9.9.9", "10.0.0.1"], [], None),
        ([], [], "its own name n1 does not resolve on it"),
    ],
)
def test_a_name_leads_to_an_address_that_others_reach(addresses, others, problem):
    assert hostnames.problem("n1", addresses, OWN, others) == problem


def test_the_level_is_that_of_what_depends_on_the_name():
    def level(several, interface="auto"):
        return hostnames.findings("n1", ["10.9.9.9"], OWN, [], several, interface)[0].level

    assert [level(True), level(False), level(True, "eth0")] == ["failure", "warning", "warning"]


def test_a_name_of_another_node_that_leads_to_this_one_is_found():
    (found,) = hostnames.peer_findings("n2", ["10.0.0.1"], OWN, ["10.0.0.1"])
    assert (found.level, found.found) == (
        "failure",
        "n2, another node, resolves to 10.0.0.1 here, which is this machine",
    )
    assert hostnames.peer_findings("n2", ["10.0.0.2"], OWN, ["10.0.0.1"]) == []
    assert "does not resolve" in hostnames.peer_findings("n2", [], OWN, ["10.0.0.1"])[0].found


PROBE = """
import json, socket
from launcher.health import hostnames
name = socket.gethostname()
found = hostnames.findings(name, hostnames.resolved(name), hostnames.own_addresses(), ["192.0.2.77"], True, "auto")
hosts = ("other.lab", name)
print(json.dumps([found[0].level, found[0].found, hostnames.start_problem(hosts, 1), hostnames.start_problem(hosts, 1,
      {"GLOO_SOCKET_IFNAME": "eth0"})]))
"""


@pytest.mark.parametrize("address", ["203.0.113.9", "127.0.1.1"])
def test_a_real_machine_whose_hosts_file_is_wrong(address, tmp_path):
    """In namespaces with their own host name and /etc/hosts. A job on nodes does not start with 127.0.1.1, to which
    gloo would send every rank of another node."""
    support.needs(None if shutil.which("unshare") and sys.platform == "linux" else "unshare is not installed")
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n{address} lab-doctor\n192.0.2.77 other.lab\n")
    shell = f'mount --bind {tmp_path}/hosts /etc/hosts && hostname lab-doctor && exec {sys.executable} -c "$1"'
    argv = ["unshare", "--uts", "--mount", "sh", "-c", shell, "sh", PROBE]
    unset = {key: value for key, value in os.environ.items() if key not in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2], env=unset)
    support.needs("namespaces need root" if "not permitted" in done.stderr else None)
    level, found, at_start, with_interface = json.loads(done.stdout)
    assert level == "failure" and f"lab-doctor resolves to {address} on it" in found
    assert with_interface is None
    assert at_start is None if address != "127.0.1.1" else at_start.startswith("its own name lab-doctor resolves to ")


def test_interfaces():
    def found(interface, up, several=True):
        return hostnames.interface_findings(interface, up, several)[0].level

    lo, two = {"lo": ["127.0.0.1"]}, {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"], "ib0": ["10.1.0.1"]}
    assert [found("auto", lo), found("auto", lo, False), found("auto", two), found("ib0", two), found("ib9", two)] == [
        "failure", "ok", "warning", "ok", "failure"
    ]  # fmt: skip
    assert found("auto", {"eth0": ["10.0.0.1"]}, False) == "failure"
