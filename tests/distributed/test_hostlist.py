"""Lists of nodes. What is expected was printed by `scontrol show hostnames` of Slurm 22.05."""

import shutil
import subprocess

import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

from launcher.distributed.hostlist import expand

SCONTROL = {
    "node1": "node1",
    "node1,node2": "node1 node2",
    "node[1-3]": "node1 node2 node3",
    "node[01-03]": "node01 node02 node03",
    "node[1-3,5]": "node1 node2 node3 node5",
    "node[1,3-5,9]": "node1 node3 node4 node5 node9",
    "node[001-003,010]": "node001 node002 node003 node010",
    "node[9-11]": "node9 node10 node11",
    "node[09-11]": "node09 node10 node11",
    "node[9-011]": "node9 node10 node11",
    "a[1-2],b[3-4]": "a1 a2 b3 b4",
    "a1,b[3-4],c": "a1 b3 b4 c",
    "a[1-2][3-4]": "a13 a14 a23 a24",
    "a[1-2]x[3-4]": "a1x3 a1x4 a2x3 a2x4",
    "r[1-2]c[1-2]n[1-2]": "r1c1n1 r1c1n2 r2c1n1 r2c1n2 r1c2n1 r1c2n2 r2c2n1 r2c2n2",
    "rack[0-1]-n[01-02],login": "rack0-n01 rack0-n02 rack1-n01 rack1-n02 login",
    "node[1]": "node1",
    "node[1,1]": "node1 node1",
    "node1,node1": "node1 node1",
    "node[2-2]": "node2",
    "node-1": "node-1",
    "node-[1-2]": "node-1 node-2",
    "node_1": "node_1",
    "n.example.org": "n.example.org",
    "10.0.0.[1-3]": "10.0.0.1 10.0.0.2 10.0.0.3",
    "[1-3]": "1 2 3",
    "a,b,c": "a b c",
    "a,,b": "a b",
    ",a": "a",
    "a,": "a",
    "a b": "a b",
    "a [1-2]": "a 1 2",
    " a": "a",
    " a[1-2] ": "a1 a2",
    "a[1-2] b[3-4]": "a1 a2 b3 b4",
    "a\tb": "a b",
    "a\nb": "a b",
    "a/b": "a/b",
    "a0[1-2]": "a01 a02",
    "a[0-0]": "a0",
    "a[00-00]": "a00",
    "a[1-3,2-4]": "a1 a2 a3 a2 a3 a4",
    "b,a": "b a",
    "node10,node9": "node10 node9",
    "a[10-12],a[1-2]": "a10 a11 a12 a1 a2",
    "a[1-2],a[3-4]": "a1 a2 a3 a4",
    "A[1-2]": "A1 A2",
    "n[0001-0002]": "n0001 n0002",
    "n[99999999999-100000000001]": "n99999999999 n100000000000 n100000000001",
    "n{1,2}": "n{1 2}",
    "n(2)": "n(2)",
    "é[1-2]": "é1 é2",
    "n[00000000001-00000000003]": "n00000000001 n00000000002 n00000000003",
    "n[1-2][1-2][1-2]": "n111 n112 n211 n212 n121 n122 n221 n222",
    "n[1-2][1-2]x[1-2]": "n11x1 n11x2 n21x1 n21x2 n12x1 n12x2 n22x1 n22x2",
    "n[1-2][01-02]": "n101 n102 n201 n202",
    "a#b": "a#b",
    "a*b": "a*b",
    "a:b": "a:b",
    "a'b": "a'b",
    'a"b': 'a"b',
    "a[1-2]b[0]c[3-4]d[5-6]": "a1b0c3d5 a1b0c3d6 a2b0c3d5 a2b0c3d6 a1b0c4d5 a1b0c4d6 a2b0c4d5 a2b0c4d6",
    "r[1-2]n[01-02],r3n[01,03-04],login[1]": "r1n01 r1n02 r2n01 r2n02 r3n01 r3n03 r3n04 login1",
    "tux[0-3][0-1]": "tux00 tux01 tux10 tux11 tux20 tux21 tux30 tux31",
}
REFUSED = {
    "a[1-2]b": 7,
    "a[1-2]-ib": 7,
    "a[1-2]x[3-4]y": 13,
    "node[3-1]": 6,
    "n[1-2].example.org": 7,
    "n[1-2].a.b,c.d": 7,
    "[01-03]a": 8,
    "a[ 1-2 ]": 3,
    "a[]": 3,
    "a[-1]": 3,
    "a[x]": 3,
    "a[1-x]": 3,
    "a[1,]": 5,
    "a[,1]": 3,
    "a[1--2]": 3,
    "a[[1-2]]": 3,
    "a[1[2]]": 4,
    "a[1-2]]": 7,
    "a[1-2]3": 7,
    "a[1-2]03": 7,
    "n[1-2]-[a-b]": 9,
    "gpu[a-c]": 5,
    "gpu[a,b]": 5,
    "n[1-2,a]": 7,
    "n[1-1000000]": 3,
    "node[1-3]x2": 10,
    "a[1-2]=b": 7,
    "a[1-2-3]": 3,
    "a[1.5]": 3,
    "a[0x1]": 3,
    "x[1-4:2]": 3,
    "node[1-3]^": 10,
    "n[1 2]": 3,
}
MADE_UP = {  # Slurm prints names that nobody wrote
    "a[": 2,
    "a[1-2": 2,
    "a]": 2,
    "a1-2]": 5,
    "a[1-]": 3,
    "a[1, 2]": 5,
    "a[+1]": 3,
}


@pytest.mark.parametrize("nodelist", SCONTROL)
def test_the_names_are_those_of_scontrol(nodelist):
    assert expand(nodelist) == SCONTROL[nodelist].split()


@pytest.mark.parametrize("nodelist", [*REFUSED, *MADE_UP])
def test_an_invalid_list_is_refused_with_the_position(nodelist):
    with pytest.raises(ValueError, match=f"at character {(REFUSED | MADE_UP)[nodelist]}$"):
        expand(nodelist)


@pytest.fixture(scope="module")
def scontrol(tmp_path_factory):
    """The real one, which needs no daemon: only some configuration."""
    support.needs(None if shutil.which("scontrol") else "scontrol is not installed (slurm-client)")
    conf = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=node1\nPartitionName=p Nodes=ALL\n")

    def show(nodelist):
        command = ["scontrol", "show", "hostnames", nodelist]
        done = subprocess.run(
            command, env={"SLURM_CONF": str(conf), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=10
        )
        return None if done.stderr else done.stdout.splitlines()

    return show


def test_the_names_are_those_of_the_installed_scontrol(scontrol):
    for nodelist in SCONTROL:
        assert expand(nodelist) == scontrol(nodelist), nodelist
    assert [nodelist for nodelist in REFUSED if scontrol(nodelist)] == []


NAMES = st.from_regex(r"[a-z][a-z-]{0,3}", fullmatch=True)
RANGES = st.tuples(st.integers(0, 120), st.integers(0, 12), st.integers(1, 4))


@st.composite
def elements(draw):
    """An element of a list, and the names that it stands for."""
    name, ranges = draw(NAMES), draw(st.lists(RANGES, max_size=3))
    if not ranges:
        return name, [name]
    written = ",".join(f"{first:0{digits}d}-{first + more:0{digits}d}" for first, more, digits in ranges)
    return f"{name}[{written}]", [
        f"{name}{number:0{digits}d}" for first, more, digits in ranges for number in range(first, first + more + 1)
    ]


@given(st.lists(elements(), min_size=1, max_size=5), st.sampled_from([",", ", ", " ", "\n", ",,"]))
def test_a_written_list_is_read_back(listed, between):
    assert expand(between.join(written for written, _ in listed)) == [name for _, names in listed for name in names]


@given(st.text("ab01[]-, \n", max_size=12))
def test_any_text_is_a_list_of_names_or_refused(text):
    try:
        names = expand(text)
    except ValueError as error:
        assert "is no list of nodes: " in str(error)
    else:
        assert all(name and not set(name) & set("[], \n") for name in names)
