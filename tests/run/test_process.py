import numpy as np
import pytest
import ranks

from launcher.config.errors import UserError
from launcher.run.process import Place, place

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
PMI = {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2"}


@pytest.mark.parametrize(
    "told", [TORCHRUN, {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, PMI, {**SLURM, "SLURM_STEP_ID": "0"}]
)
def test_a_rank_finds_its_place_by_what_started_it(told):
    assert place(told) == Place(rank=3, world=8, local_rank=1, local_world=2)


def test_without_a_starter_a_rank_is_alone():
    assert place({}) == Place(0, 1, 0, 1)


def test_a_slurm_batch_script_is_no_rank():
    assert place(SLURM) == Place(0, 1, 0, 1)


def test_torchrun_inside_a_slurm_step_is_torchrun():
    assert place({**SLURM, "SLURM_STEP_ID": "0", **TORCHRUN, "RANK": "0"}).rank == 0


@pytest.mark.parametrize("told", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_nonsense_is_told_with_its_variables(told):
    with pytest.raises(UserError, match=r"RANK=.*WORLD_SIZE=2: no rank of a world \(set by torchrun\?\)"):
        place(told)


def gathered(process):
    record = np.array((process.rank + 0.5, 2**64 - 1 - process.rank), dtype=[("a", "f8"), ("b", "u8")])
    process.barrier()
    return process.gather(record), process.share({"from": process.rank})


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_gather_records_in_their_order_and_share_what_rank_0_says(world):
    for every, said in ranks.on_ranks(world, gathered):
        assert every["a"].tolist() == [rank + 0.5 for rank in range(world)]
        assert every["b"].tolist() == [2**64 - 1 - rank for rank in range(world)]
        assert said == {"from": 0}
