"""The cluster profile: where to train."""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from launcher.config.atomic_files import expanded
from launcher.config.types import Strict, matching

Auto = Literal["auto"]
GlobalBatchInfo = Annotated[int, Field(gt=0)]
Number = Annotated[float, Field(gt=0, le=1e12)]
_MOST_NODES = 10_000

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<fields>\d+(?::\d+){0,2})")


def time_limit(text: str) -> int:
    """The seconds of a time limit as Slurm reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes or days-hours:minutes:seconds. Raises ValueError."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time limit (such as 90, 12:00:00 or 2-00:00:00)")
    fields = [int(field) for field in found["fields"].split(":")]
    units = (3600, 60, 1) if found["days"] or len(fields) == 3 else (60, 1)
    return int(found["days"] or 0) * 86400 + sum(n * unit for n, unit in zip(fields, units, strict=False))


def _is_time(value: str) -> str:
    if value.upper() not in ("UNLIMITED", "INFINITE"):
        time_limit(value)
    return value


def _range(value: Any) -> Any:
    """`2:4`: at least 2, at most 4."""
    found = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
    if isinstance(value, bool) or (not isinstance(value, int | tuple | list) and not found):
        raise PydanticCustomError("nodes", "a number of nodes, or the least and the most, such as 2:4")
    if isinstance(value, tuple | list):
        if len(value) != 2 or not all(type(bound) is int for bound in value):
            return tuple(value)
        least, most = value
    else:
        least, most = (int(found[1]), int(found[2])) if found else (value, value)
    if not 0 < least <= most:
        raise PydanticCustomError("nodes", "at least 1, and the least before the most, such as 2:4")
    if most > _MOST_NODES:
        raise PydanticCustomError("nodes", "{most} at the most", {"most": _MOST_NODES})
    return least, most


def _one_line(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("should be one line of printable characters")
    return value


_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|([A-Za-z_]\w*))")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
STORED = "stored"
"""In the context of a validation: whether variables have been filled in before, as in the profile of a run's folder."""


def _filled(value: str, info: ValidationInfo) -> str:
    """With variables of this shell in the place of $NAME and ${NAME}, and $ in that of $$: what is quoted in a script
    is not expanded there. Raises ValueError for one that is not set, and for one that is a secret by its name."""
    if (info.context or {}).get(STORED):
        return value

    def fill(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name = found[2] or found[3]
        if _SECRET.search(name):
            what = f"${name} would stand in files of the run (have slurm.setup read it from a file of your own)"
            raise PydanticCustomError("variable", "{what}", {"what": what})
        if name not in os.environ:
            advice = "variables are filled in from this shell; what a node sets belongs into slurm.setup"
            raise PydanticCustomError("variable", "{what}", {"what": f"${name} is not set here ({advice})"})
        return os.environ[name]

    return _VARIABLE.sub(fill, value)


def _home(value: str) -> str:
    return str(expanded(value)) if value.startswith("~") else value


def _unexpanded(value: str) -> str:
    if found := next((one for one in _VARIABLE.finditer(value) if not one[1]), None):
        what = f"{found[0]} would stay as it is: Slurm expands no variables (write its value)"
        raise PydanticCustomError("variable", "{what}", {"what": what})
    return value


Line = Annotated[str, AfterValidator(_one_line)]
"""A value that stands in a script: one line; it is quoted there."""
Filled = Annotated[Line, AfterValidator(_filled)]
"""One in which variables of this shell are filled in."""
Where = Annotated[Filled, AfterValidator(_home)]
"""A path, with ~ for the home folder too."""
Option = Annotated[Line, AfterValidator(_unexpanded)]
"""A value that Slurm itself reads."""
Time = Annotated[str, BeforeValidator(lambda v: str(v) if type(v) is int else v), AfterValidator(_is_time)]
Variable = Annotated[
    str,
    matching(r"[A-Za-z_][A-Za-z0-9_]*", "should be the name of a variable: letters, digits and _, no digit first"),
]
Nodes = Annotated[tuple[int, int], BeforeValidator(_range)]


class Container(Strict):
    """The container that ranks run in. The run folder, the current folder and the cache are mounted without being
    listed."""

    kind: Literal["apptainer", "pyxis"]
    """Container runtime."""
    image: Where
    """Image: a file or URI (apptainer), or a value of `srun --container-image` (pyxis)."""
    mounts: list[Where] = []
    """Mounted folders, each as `/path` or `/path:/inside`."""
    python: Where = "python3"
    """Python interpreter inside the container, with the launcher installed."""
    options: list[Line] = []
    """Further options of the container runtime."""


class Mail(Strict):
    """Mail that Slurm sends about a job."""

    user: Option
    """Mail address, or user name."""
    type: Option = "END,FAIL"
    """Events, as in `sbatch --mail-type`."""


class Slurm(Strict):
    """Options of a Slurm job."""

    partition: Option | None = None
    """Partition."""
    account: Option | None = None
    """Account that is charged."""
    qos: Option | None = None
    """Quality of service."""
    time: Time | None = None
    """Time limit in Slurm's notation, such as 12:00:00 or 2-00:00:00."""
    constraint: Option | None = None
    """Node features, as in `sbatch --constraint`."""
    gres: Option = "auto"
    """Generic resources of a node, such as gpu:a100:8. `auto`: gpu:<devices_per_node> for cuda devices;
    `gpus_per_node`: request them with --gpus-per-node; `none`: no request."""
    exclusive: bool = False
    """Allocate whole nodes."""
    cpus_per_node: GlobalBatchInfo | None = None
    """CPU cores of a node. Default: as the partition allocates."""
    memory_per_node: Option | None = None
    """Host memory of a node, as in `sbatch --mem`."""
    mail: Mail | None = None
    """Mail about the job."""
    modules: list[Line] = []
    """Environment modules to load, before the lines of `setup`."""
    setup: list[Line] = []
    """Shell lines that run on the first node before the ranks start. They are not quoted."""
    container: Container | None = None
    """Container that ranks run in."""
    python: Where | None = None
    """Python interpreter on the nodes. Default: the path of the current one."""
    leave: GlobalBatchInfo = 120
    """Seconds before the time limit at which the run saves a checkpoint and ends."""
    requeue: Literal["requeue", "chain", "never"] = "requeue"
    """How an interrupted job continues: `requeue` (scontrol requeue), `chain` (a dependent job, where a site forbids
    requeueing), or `never`."""
    max_requeues: int = Field(100, ge=0)
    """Maximum number of times that a job continues."""
    spares: int = Field(0, ge=0)
    """Reserve nodes, allocated where free, that replace lost ones."""
    max_running: GlobalBatchInfo | None = None
    """Maximum number of array tasks that run at a time."""
    options: list[Option] = []
    """Further options of sbatch, unchanged."""


class Ssh(Strict):
    """Hosts that are reached by ssh. They share a disk with the current folder and the cache."""

    hosts: list[Line] = Field(min_length=1)
    """Host names, by which the hosts also reach each other. The first one is the rendezvous."""
    options: list[Line] = []
    """Options of ssh, such as -p or -i."""
    python: Where | None = None
    """Python interpreter on the hosts. Default: the path of the current one."""


class Scratch(Strict):
    """Folders for temporary and cached files."""

    shared: Where | None = None
    """Folder that all nodes share, for the cache of prepared data."""
    local: Where | None = None
    """Folder on each node's own disk, for files that live as long as the job."""


class Links(Strict):
    """Bandwidths of the network. No estimate uses them: the visible cost of communication depends on the strategy and
    on what it overlaps with."""

    within_node: Number | None = None
    """GB per second and direction between two devices of one node."""
    between_nodes: Number | None = None
    """GB per second and direction between devices of two nodes."""


class Cluster(Strict):
    """Where to train."""

    name: str = "local"
    """Name of the profile."""
    kind: Literal["local", "slurm", "ssh"] = "local"
    """Scheduler that starts the ranks."""
    nodes: Nodes = (1, 1)
    """Number of nodes, or the minimum and the maximum, such as 2:4. A job with a range continues on fewer nodes when
    some are lost."""
    devices_per_node: Auto | GlobalBatchInfo = "auto"
    """Ranks of a node. `auto`: one for each device found on this machine."""
    device: Auto | Literal["cpu", "cuda", "xpu", "mps"] = "auto"
    """Device type. `auto`: the one found on this machine."""
    memory_per_device: Auto | Number = "auto"
    """GiB of device memory; host memory of the whole machine for cpu. `auto`: measured on this machine, and not checked
    on others."""
    peak_tflops: Auto | Number = "auto"
    """Peak TFLOP/s of one device in the recipe's precision, for MFU and estimates. `auto`: measured."""
    interface: Line = "auto"
    """Network interface for gloo and NCCL, or `auto`."""
    env: dict[Variable, Filled | Literal[""]] = {}
    """Environment variables of the ranks."""
    max_restarts: int = Field(0, ge=0)
    """Maximum number of restarts after a failed rank."""
    timeout: Number = 30
    """Minutes that ranks wait for each other before they fail."""
    hours_between_failures: Number | None = None
    """Mean hours between failures of one node."""
    links: Links = Links()
    """Network bandwidths."""
    scratch: Scratch = Scratch()
    """Folders for temporary and cached files."""
    slurm: Slurm | None = None
    """Options of a cluster of kind slurm."""
    ssh: Ssh | None = None
    """Hosts of a cluster of kind ssh."""
    _given: str = PrivateAttr("local")
    _overrides: tuple[str, ...] = PrivateAttr(())

    @property
    def given(self) -> str:
        """What --cluster said."""
        return self._given

    @property
    def overrides(self) -> tuple[str, ...]:
        """What was said beside it, such as cluster.slurm.time=30."""
        return self._overrides

    @property
    def elastic(self) -> bool:
        return self.nodes[0] < self.nodes[1]

    @model_validator(mode="after")
    def _fits(self) -> "Cluster":
        """What belongs together. A login node cannot look at the devices of the others."""
        for kind in ("slurm", "ssh"):
            given = getattr(self, kind) is not None
            if given and self.kind != kind:
                raise PydanticCustomError("kind", "{kind}: is of a cluster of kind {kind}", {"kind": kind})
        if self.kind == "local" and self.nodes != (1, 1):
            raise PydanticCustomError("nodes", "nodes: a local cluster is one node (kind: slurm or ssh have more)")
        if self.kind != "local":
            needed = ("device", "devices_per_node")
            missing = ", ".join(key for key in needed if getattr(self, key) == "auto")
            if missing:
                what = "{missing}: cannot be found from here for a cluster of kind {kind} (write them down)"
                raise PydanticCustomError("auto", what, {"missing": missing, "kind": self.kind})
        if self.kind == "ssh" and self.ssh is None:
            raise PydanticCustomError("ssh", "ssh: missing (its hosts)")
        if self.ssh is not None and not self.nodes[1] <= len(self.ssh.hosts):
            raise PydanticCustomError("nodes", "nodes: more than there are hosts")
        return self
