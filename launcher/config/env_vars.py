"""Environment variables that the launcher defines, and the library variables that it sets for nodes and ranks."""

import re
from collections.abc import Mapping

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
LOG_LEVEL = "LAUNCHER_LOG_LEVEL"
"""Log level: DEBUG, or INFO for any other value. Set by --verbose, and inherited by the ranks."""

OF_JOB = (JOB, START, DEADLINE)
"""Variables that are set for the nodes of a job."""

RANK_DEFAULTS: Mapping[str, str] = {
    "TOKENIZERS_PARALLELISM": "false",  # ranks fork loader workers
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # a shared store keeps the addresses of dead ranks
}
"""Variables that are set for every rank and its agent."""
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


def of_interface(interface: str) -> dict[str, str]:
    """Return the variables that select a network interface; none for `auto`."""
    return {} if interface == "auto" else dict.fromkeys((GLOO_INTERFACE, NCCL_INTERFACE), interface)
