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
    """What the ranks run in. apptainer: `image` is a file or a URI; pyxis: what `srun --container-image` takes.
    `mounts`: `/path` or `/path:/inside`; the run folder, the current folder and the cache are mounted by themselves.
    `python`: the interpreter inside that has the launcher."""

    kind: Literal["apptainer", "pyxis"]
    image: Where
    mounts: list[Where] = []
    python: Where = "python3"
    options: list[Line] = []


class Mail(Strict):
    user: Option
    type: Option = "END,FAIL"


class Slurm(Strict):
    """What Slurm is asked for. `gres`: a GRES such as gpu:a100:8, in the form of `--gres`; auto: gpu:<devices_per_node>
    where the device is cuda (`gpus_per_node` asks with --gpus-per-node instead; none: not at all). `setup`: lines of
    shell that run on the first node before anything else, as they stand; `modules`: loaded before them. `leave`:
    seconds before the end of the time limit at which the run saves and makes way. `requeue`: how it comes back: by
    `scontrol requeue`, by a job chained to this one where a site forbids that, or never. `spares`: nodes held in
    reserve, as far as they are free, for those that are lost. `max_running`: runs of an array at a time. `options`:
    further options of sbatch, as they stand."""

    partition: Option | None = None
    account: Option | None = None
    qos: Option | None = None
    time: Time | None = None
    constraint: Option | None = None
    gres: Option = "auto"
    exclusive: bool = False
    cpus_per_node: GlobalBatchInfo | None = None
    memory_per_node: Option | None = None
    mail: Mail | None = None
    modules: list[Line] = []
    setup: list[Line] = []
    container: Container | None = None
    python: Where | None = None
    leave: GlobalBatchInfo = 120
    requeue: Literal["requeue", "chain", "never"] = "requeue"
    max_requeues: int = Field(100, ge=0)
    spares: int = Field(0, ge=0)
    max_running: GlobalBatchInfo | None = None
    options: list[Option] = []


class Ssh(Strict):
    """The hosts, by the names that they call each other, the first the one that others meet at. `options`: of ssh, such
    as -p or -i. `python`: the interpreter there (default: the path of the one here); the current folder and the cache
    are on a disk that all of them share."""

    hosts: list[Line] = Field(min_length=1)
    options: list[Line] = []
    python: Where | None = None


class Scratch(Strict):
    """`shared`: a folder that all nodes see, for the cache of prepared data; `local`: one that each node has for
    itself, for what lives as long as a job."""

    shared: Where | None = None
    local: Where | None = None


class Links(Strict):
    """Bytes between two devices, in gigabytes a second and one way: of one node, and of two. No plan counts with them:
    how much of the communication shows depends on the strategy and on what it overlaps with."""

    within_node: Number | None = None
    between_nodes: Number | None = None


class Cluster(Strict):
    """`nodes`: how many, or the least and the most, such as 2:4: a job that shrinks when nodes are lost.
    `memory_per_device` in GiB (of the whole machine for cpu; auto: found on this machine, and not checked for others);
    `peak_tflops` of one device in the precision of the
    recipe; `interface`: the network interface for gloo and NCCL; `timeout`: minutes that ranks wait for each other
    before they give up; `hours_between_failures`: of one node, the mean."""

    name: str = "local"
    kind: Literal["local", "slurm", "ssh"] = "local"
    nodes: Nodes = (1, 1)
    devices_per_node: Auto | GlobalBatchInfo = "auto"
    device: Auto | Literal["cpu", "cuda", "xpu", "mps"] = "auto"
    memory_per_device: Auto | Number = "auto"
    peak_tflops: Auto | Number = "auto"
    interface: Line = "auto"
    env: dict[Variable, Filled | Literal[""]] = {}
    max_restarts: int = Field(0, ge=0)
    timeout: Number = 30
    hours_between_failures: Number | None = None
    links: Links = Links()
    scratch: Scratch = Scratch()
    slurm: Slurm | None = None
    ssh: Ssh | None = None
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
