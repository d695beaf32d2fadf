"""DeepSpeed in the process of a rank: its import, and the variables that it reads."""

import logging
import os
import warnings
from types import ModuleType

import torch

from launcher.distributed.launch_env import rank_info

_LOCAL_RANK, _OF_MPI = "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"


def load(device: str) -> ModuleType:
    """Return DeepSpeed, imported for this type of device and without its log messages.

    DeepSpeed asks its table of operations only for a kernel of inference on CPUs, which is not used here. An empty
    table keeps it from trying the compilers of every operation on every rank; one that is used is built all the same.
    """
    os.environ.setdefault("DS_ACCELERATOR", device)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls, not ours
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    vars(deepspeed.ops)["__compatible_ops__"] = {}
    module: ModuleType = deepspeed
    return module


def set_local_rank(device: torch.device) -> None:
    """Set the variables of a rank's device: LOCAL_RANK, which DeepSpeed reads, and Open MPI's, which must be equal.

    It is the index of an accelerator, also if each rank sees only its own. On a CPU it is the rank's number on its
    host.
    """
    if device.type != "cpu":
        os.environ[_LOCAL_RANK] = str(device.index or 0)
    elif _LOCAL_RANK not in os.environ:
        os.environ[_LOCAL_RANK] = str(rank_info().local_rank)
    if _OF_MPI in os.environ:
        os.environ[_OF_MPI] = os.environ[_LOCAL_RANK]
