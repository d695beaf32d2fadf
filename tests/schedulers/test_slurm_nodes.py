"""The share of a node's cores that belongs to the GPUs of a job."""

import pytest

from launcher.config.cluster import Cluster
from launcher.schedulers import _slurm_nodes as slurm_nodes
from launcher.schedulers import _slurm_queue as slurm_queue
from launcher.schedulers import slurm

NODES = """\
NodeName=g1 Arch=x86_64 CoresPerSocket=32 CPUAlloc=0 CPUEfctv=124 CPUTot=128 CPULoad=0.01 \
AvailableFeatures=a100 ActiveFeatures=a100 Gres=gpu:a100:8(S:0-1),nvme:1 NodeAddr=g1 State=IDLE Partitions=gpu,all 
NodeName=g2 CPUAlloc=4 CPUTot=64 Gres=gpu:v100:4(S:0),gpu:k80:4 State=MIXED Partitions=gpu Reason=no [root@x]
NodeName=c1 CPUTot=48 Gres=(null) State=IDLE Partitions=cpu,all
NodeName=broken State=DOWN
"""


def test_nodes_are_parsed():
    first, second, third = slurm_nodes.parse(NODES)
    assert (first.cores, first.gpus, first.partitions) == (124, {"a100": 8}, {"gpu", "all"})
    assert (second.cores, second.gpus) == (64, {"v100": 4, "k80": 4})
    assert (third.cores, third.gpus) == (48, {})


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu", {"": 1}),
        ("gpu:4", {"": 4}),
        ("gpu:a100:8(S:0-1)", {"a100": 8}),
        ("gpu:a100:2,gpu:a100:1,gpu:3", {"a100": 3, "": 3}),
        ("gpu:1g.10gb:7", {"1g.10gb": 7}),
        ("none", {}),
        ("(null)", {}),
        ("nvme:1", {}),
    ],
)
def test_gpus_of_a_gres(gres, gpus):
    assert slurm_nodes.gpus_of(gres) == gpus


@pytest.mark.parametrize(
    ("partitions", "requested", "cores"),
    [
        (["gpu"], {"a100": 8}, 124),
        (["gpu"], {"a100": 2}, 31),
        (["gpu"], {"v100": 2}, 16),
        (["gpu"], {"": 4}, 32),  # the smallest share of both nodes
        (["all"], {"": 4}, 62),
        (["gpu"], {"a100": 9}, None),
        (["cpu"], {"": 1}, None),
        (["gpu"], {}, None),
    ],
)
def test_the_smallest_share_of_the_suitable_nodes(partitions, requested, cores):
    assert slurm_nodes.share(slurm_nodes.parse(NODES), partitions, requested) == cores


@pytest.fixture
def queue(monkeypatch):
    monkeypatch.setattr(slurm_queue, "nodes", lambda: NODES)
    monkeypatch.setattr(slurm_queue, "partitions", lambda: "cpu\ngpu*\nall\n")


def completed(**options):
    profile = {"kind": "slurm", "device": "cuda", "devices_per_node": 4, **options}
    cluster = Cluster.model_validate(profile)
    found = slurm.Scheduler(cluster.scheduler).complete(cluster)
    assert cluster.scheduler.cpus_per_node == Cluster.model_validate(profile).scheduler.cpus_per_node
    return found


@pytest.mark.parametrize(
    ("options", "cores"),
    [
        ({}, 32),
        ({"slurm": {"partition": "all"}}, 62),
        ({"slurm": {"partition": "cpu,all"}}, 62),
        ({"slurm": {"gres": "gpu:a100:4"}}, 62),
        ({"slurm": {"gres": "gpus_per_node"}}, 32),
        ({"slurm": {"cpus_per_node": 3}}, 3),
        ({"slurm": {"exclusive": True}}, None),
        ({"slurm": {"gres": "none"}}, None),
        ({"slurm": {"partition": "cpu"}}, None),
        ({"device": "cpu"}, None),
    ],
)
def test_a_gpu_job_gets_its_share_of_the_cores(queue, options, cores):
    assert completed(**options).scheduler.cpus_per_node == cores


def test_where_slurm_does_not_answer_the_plan_warns(monkeypatch):
    def missing():
        raise slurm_queue.SlurmMissing("sinfo: not found")

    monkeypatch.setattr(slurm_queue, "partitions", missing)
    cluster = completed()
    told = (
        "slurm.cpus_per_node: not set: Slurm gives the 4 ranks of a node one core, unless the site sets another number "
    )
    assert cluster.scheduler.notes(cluster) == [f"{told}(sinfo -o '%c %G' shows cores and GPUs of the nodes)"]


def test_no_warning_where_the_cores_are_known(queue):
    for options in ({}, {"slurm": {"exclusive": True}}, {"device": "cpu"}, {"slurm": {"cpus_per_node": 8}}):
        cluster = completed(**options)
        assert cluster.scheduler.notes(cluster) == []
