"""Limits of processes, and shared memory."""

import pytest

from launcher.health import limits
from launcher.health.disks import Space
from launcher.health.limits import Limits

GIB = 2**30


def test_the_limits_of_this_process_are_read():
    assert limits.findings(limits.of_this_process(), 1, rdma=False)[0].check == "open files"


@pytest.mark.parametrize(
    ("found", "rdma", "levels"),
    [
        (Limits(None, None, None), True, ["ok", "ok", "ok"]),
        (Limits(1024, 4096, 65536), False, ["warning", "ok", "ok"]),
        (Limits(256, 100, 65536), True, ["failure", "failure", "failure"]),
    ],
)
def test_levels_for_eight_ranks(found, rdma, levels):
    assert [one.level for one in limits.findings(found, 8, rdma)] == levels


@pytest.mark.parametrize(
    ("room", "problems", "level"),
    [
        (Space(GIB, GIB, None), [], "ok"),
        (Space(64 * 2**20, 64 * 2**20, None), [], "warning"),
        (Space(GIB, GIB, None), ["/dev/shm: semaphore 3"], "failure"),
    ],
)
def test_shared_memory(room, problems, level):
    assert limits.shared_memory_findings(room, problems)[0].level == level
