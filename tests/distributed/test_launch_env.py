import re

import pytest

from launcher.config.errors import UserError
from launcher.distributed.launch_env import LauncherInfo, RankInfo, contradictions, rank_info

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
DEEPSPEED = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_SIZE": "4"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "2(x4)", "SLURM_JOB_NUM_NODES": "4",
}  # fmt: skip
THERE = RankInfo(rank=3, world=8, local_rank=1, local_world=2)


def task(number, tasks, **more):
    return {
        **SLURM,
        "SLURM_PROCID": str(number),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_NTASKS": str(tasks),
        **more,
    }


@pytest.mark.parametrize("told", [TORCHRUN, DEEPSPEED, OPEN_MPI, MPICH, SLURM])
def test_a_rank_reads_the_variables_of_each_starter(told):
    assert rank_info(told) == THERE


@pytest.mark.parametrize(
    ("told", "where"),
    [
        ({}, RankInfo()),
        ({**SLURM, "SLURM_STEP_ID": str(0xFFFFFFFB)}, RankInfo()),  # a batch script
        ({**SLURM, "SLURM_STEP_ID": str(0xFFFFFFFA)}, RankInfo()),  # the shell of salloc
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"}, RankInfo()),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "3,2,1(x3)"}, THERE),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1,2(x3),1"}, THERE),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "", "SLURM_NTASKS_PER_NODE": "2"}, THERE),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": ""}, RankInfo(3, 8, 1, 8)),
        ({**SLURM, "PMI_RANK": "3", "PMI_SIZE": "8"}, THERE),  # srun --mpi=pmi2
        ({**task(1, 4), **MPICH}, THERE),  # mpirun whose proxies were started by srun
        ({**task(1, 4), **OPEN_MPI}, THERE),
        ({**task(0, 4), **TORCHRUN}, THERE),
    ],
)
def test_of_several_starters_the_innermost_counts(told, where):
    assert rank_info(told) == where


@pytest.mark.parametrize("told", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_an_impossible_rank_is_reported_with_its_variables(told):
    with pytest.raises(UserError, match=r"RANK=.*WORLD_SIZE=2: no rank of a world \(set by torchrun\?\)"):
        rank_info(told)


AGENT = {"GROUP_WORLD_SIZE": "1", "RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0"}


@pytest.mark.parametrize(
    ("told", "what"),
    [
        ({"RANK": "0"}, "RANK=0 is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set and RANK is not"),
        ({**SLURM, "RANK": "0"}, "RANK=0 is set and WORLD_SIZE is not"),
        ({**task(1, 2), **AGENT}, r"srun started 2 tasks, and torchrun in each a world of 1 agent\(s\) of its own"),
        ({**task(1, 2), "RANK": "0", "WORLD_SIZE": "2", "CROSS_SIZE": "1"}, "srun started 2 tasks"),
        ({**OPEN_MPI, **AGENT}, "mpirun started 8 tasks"),
        ({**OPEN_MPI, "RANK": "0", "WORLD_SIZE": "2"}, r"RANK=0 of WORLD_SIZE=2, but OMPI_COMM_WORLD_RANK=3 of .*=8"),
        ({**MPICH, "RANK": "3", "WORLD_SIZE": "4"}, "PMI_RANK=3 of PMI_SIZE=8: two starters"),
        ({"SLURM_JOB_NUM_NODES": "2"}, "this allocation has 2 nodes and the worker was started alone on one of them"),
        ({"SLURM_NNODES": "3", "SLURM_STEP_ID": str(0xFFFFFFFA), "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "3 nodes"),
        ({**SLURM, "MASTER_ADDR": "a"}, "MASTER_ADDR=a is set and MASTER_PORT is not"),
        ({**TORCHRUN, "MASTER_PORT": "1"}, "MASTER_PORT=1 is set and MASTER_ADDR is not"),
        ({**TORCHRUN, "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT=x is no port"),
    ],
)
def test_contradictions_are_reported_with_what_to_do(told, what):
    (said,) = contradictions(told)
    assert re.search(what, said), said
    assert said.endswith(")")


@pytest.mark.parametrize(
    "told",
    [
        {}, TORCHRUN, DEEPSPEED, OPEN_MPI, MPICH, SLURM,
        {**SLURM, "WORLD_SIZE": "8"},  # exported by a batch script for all its tasks
        {**SLURM, "RANK": "3", "WORLD_SIZE": "8"},
        {**OPEN_MPI, "RANK": "3", "WORLD_SIZE": "8"},
        {**task(0, 2), **AGENT, "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "4"},  # an agent a node
        {**task(0, 1), **AGENT, "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "4"},  # a step for each agent
        {**task(0, 1), **AGENT},
        {**task(0, 2), **AGENT, "TORCHELASTIC_RESTART_COUNT": "1"},  # elastic: a node was lost
        {**task(1, 2), **DEEPSPEED, "CROSS_SIZE": "2"},
        {"SLURM_JOB_NUM_NODES": "1"},
        {"MASTER_ADDR": "a"},
        {**SLURM, "MASTER_ADDR": "a", "MASTER_PORT": "29500"},
    ],
)  # fmt: skip
def test_valid_environments_have_no_contradictions(told):
    assert contradictions(told) == []


def test_a_rank_behind_another_starter_knows_its_launcher(tmp_path):
    for info in (LauncherInfo(tmp_path, 7, 0.5), LauncherInfo(tmp_path, 7, 0.5, "cuda")):
        assert LauncherInfo.of(info.variables()) == info
    assert LauncherInfo.of({}) is None
