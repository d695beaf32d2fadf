"""Environment variables that the launcher defines, and the library variables that it sets for nodes and ranks."""

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

CACHE = "LAUNCHER_CACHE"
"""Folder of prepared data and downloaded models. Set by users, profiles (scratch.shared) and bundles."""
JOB = "LAUNCHER_JOB"
"""Name of a job, the same for all of its starts. Set by the batch script or the ssh scheduler for nodes."""
START = "LAUNCHER_START"
"""Number of a job's start. The start with the highest number owns the run folder."""
DEADLINE = "LAUNCHER_DEADLINE"
"""Time at which a run saves and leaves, in seconds since the epoch. Set by the batch script."""
START_FOLDER = "LAUNCHER_START_FOLDER"
"""Folder that the launcher shares with ranks behind torchrun or accelerate (stop file, heartbeats, reports)."""
LAUNCHER_PID = "LAUNCHER_PID"
"""Process id of the launcher behind torchrun or accelerate."""
TIMEOUT = "LAUNCHER_TIMEOUT"
"""Minutes for which ranks behind torchrun or accelerate wait for each other."""
DEVICE = "LAUNCHER_DEVICE"
"""Type of the devices of ranks behind torchrun or accelerate."""
MEMORY = "LAUNCHER_MEMORY"
"""Folder of a tmpfs for the copies in memory of checkpoint.memory. Default: /dev/shm."""
RANK_IMPORTS = "LAUNCHER_RANK_IMPORTS"
"""Modules that the server from which ranks are forked imports for a recipe, separated by spaces."""
WATCHDOG = "LAUNCHER_WATCHDOG_SECONDS"
"""`watchdog.seconds` of ranks that are started without the launcher, by torchrun or srun."""
LOG_LEVEL = "LAUNCHER_LOG_LEVEL"
"""Log level: DEBUG, or INFO for any other value. Set by --verbose, and inherited by the ranks."""

OF_JOB = (JOB, START, DEADLINE)
"""Variables that are set for the nodes of a job."""

RANK_VARIABLES: Mapping[str, str] = {
    "TOKENIZERS_PARALLELISM": "false",  # ranks fork loader workers
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # a shared store keeps the addresses of dead ranks
}
"""Variables that are set for every rank and its agent, whatever the user has set."""
RANK_DEFAULTS: Mapping[str, str] = {
    "TRANSFORMERS_VERBOSITY": "error",
    # cuDNN builds a plan of about a second for each shape of a batch; torch prefers it on Hopper and newer
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # batches of many shapes fragment the memory of a device
    "NCCL_DEBUG": "WARN",
    "TORCH_FR_BUFFER_SIZE": "2000",  # the flight recorder keeps this many of the last collectives
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
"""Variables that are set for every rank, of every start, unless the user or the profile has set them. torch reads some
of them when it is imported."""
COLLECTIVES_DUMP = "TORCH_FR_DUMP_TEMP_FILE"
"""Prefix of the files into which the flight recorder writes the last collectives of each rank after a timeout."""
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "PYTORCH_ALLOC_CONF": ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"),
    "TORCH_FR_BUFFER_SIZE": ("TORCH_NCCL_TRACE_BUFFER_SIZE",),
    COLLECTIVES_DUMP: ("TORCH_NCCL_DEBUG_INFO_TEMP_FILE",),
}
"""Other names of a variable, which its library reads too."""
OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""Variables that are set for ranks: preparation has downloaded everything, and a node may have no internet access."""

GLOO_INTERFACE, NCCL_INTERFACE = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
"""Variables that select the network interface of collectives."""
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Return whether the name of a variable or key suggests that its value is a secret.

    A secret is neither copied to other files nor put on a command line, which every user of a machine can read.
    """
    return _SECRET.search(name) is not None


def set_default(name: str, value: str, environment: MutableMapping[str, str]) -> None:
    """Set a variable, unless it is set under this or another name that its library reads."""
    if not any(known in environment for known in (name, *_OTHER_NAMES.get(name, ()))):
        environment[name] = value


@contextmanager
def temporarily(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process inside the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def set_rank_defaults(environment: MutableMapping[str, str]) -> None:
    """Set the defaults of a rank. A rank that no agent of the launcher starts calls it before it imports torch."""
    for name, value in RANK_DEFAULTS.items():
        set_default(name, value, environment)


def of_interface(interface: str) -> dict[str, str]:
    """Return the variables that select a network interface; none for `auto`."""
    return {} if interface == "auto" else dict.fromkeys((GLOO_INTERFACE, NCCL_INTERFACE), interface)
