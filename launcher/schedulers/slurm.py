"""Slurm: a batch script that sbatch queues. slurm/README.md explains the script."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from launcher.config.atomic_files import write
from launcher.config.base_model import Strict
from launcher.config.errors import Problem
from launcher.config.profile_values import Line, PositiveInt, Where, refuse_variables
from launcher.config.types import SchedulerConfig
from launcher.health.finding import Finding
from launcher.schedulers import (
    JobRefused,
    JobRequest,
    JobState,
    SubmittedJob,
    _slurm_doctor,
    _slurm_nodes,
    _slurm_queue,
    _slurm_script,
)
from launcher.schedulers import Scheduler as SchedulerBase
from launcher.schedulers._slurm_job_state import is_of_run, job_state
from launcher.schedulers._slurm_script import BatchScript

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.recipe import Recipe

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<fields>\d+(?::\d+){0,2})")
_UNLIMITED = ("UNLIMITED", "INFINITE")
_SCRIPT_OPTIONS = (
    "array", "chdir", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "signal", "test-only",
    "wrap", "a", "D", "N", "n", "o",
)  # fmt: skip
"""Options of sbatch that the batch script itself needs."""


def time_limit(text: str) -> int:
    """Return the seconds of a time limit in Slurm's notation. Raises ValueError for other texts.

    The notations are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
    days-hours:minutes:seconds.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time limit (such as 90, 12:00:00 or 2-00:00:00)")
    fields = [int(field) for field in found["fields"].split(":")]
    units = (3600, 60, 1) if found["days"] or len(fields) == 3 else (60, 1)
    return int(found["days"] or 0) * 86400 + sum(n * unit for n, unit in zip(fields, units, strict=False))


def _check_time(value: str) -> str:
    if value.upper() not in _UNLIMITED:
        time_limit(value)
    return value


Option = Annotated[Line, AfterValidator(refuse_variables)]
"""A value of an option of sbatch. Variables in it are not expanded."""
Time = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if type(v) is int else v, json_schema_input_type=int | str),
    AfterValidator(_check_time),
]


class Container(Strict):
    """Container in which ranks run. The run folder, the current folder and the cache are always mounted."""

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


class Config(SchedulerConfig):
    """Options of a Slurm job."""

    kind: Literal["slurm"] = "slurm"
    partition: Option | None = None
    """Partition."""
    account: Option | None = None
    """Account to be charged."""
    qos: Option | None = None
    """Quality of service."""
    time: Time | None = None
    """Time limit in Slurm's notation, such as 12:00:00 or 2-00:00:00."""
    constraint: Option | None = None
    """Node features, as in `sbatch --constraint`."""
    gres: Option = "auto"
    """Generic resources of a node, such as gpu:a100:8. `auto`: gpu:<devices_per_node>, except on a CPU;
    `gpus_per_node`: request them with --gpus-per-node; `none`: no request."""
    exclusive: bool = False
    """Allocate whole nodes."""
    cpus_per_node: PositiveInt | None = None
    """CPU cores of a node. Default: for GPUs their share of a node's cores, if Slurm reports it; on a CPU one for each
    rank; else the partition's default."""
    memory_per_node: Option | None = None
    """Host memory of a node, as in `sbatch --mem`."""
    mail: Mail | None = None
    """Mail about the job."""
    modules: list[Line] = []
    """Environment modules to load, before the lines of `setup`."""
    setup: list[Line] = []
    """Shell lines that run on the first node before the ranks start. They are not quoted."""
    container: Container | None = None
    """Container in which ranks run."""
    python: Where | None = None
    """Python interpreter on the nodes. Default: the path of the current interpreter."""
    leave: PositiveInt = 120
    """Seconds before the time limit at which the run saves a checkpoint and ends."""
    requeue: Literal["requeue", "chain", "never"] = "requeue"
    """How an interrupted job continues. `requeue`: by scontrol requeue; `chain`: by a dependent job, if the site
    forbids requeueing; `never`: not at all."""
    max_requeues: int = Field(100, ge=0)
    """Maximum number of times that a job continues after an interruption."""
    spares: int = Field(0, ge=0)
    """Number of reserve nodes, which replace lost nodes. They are allocated if they are free."""
    max_running: PositiveInt | None = None
    """Maximum number of array tasks that run at the same time."""
    options: list[Option] = []
    """Further options of sbatch, passed unchanged."""

    deadline_advice: ClassVar[str] = "the time limit is too short, or slurm.leave too long"

    @property
    def cores_per_node(self) -> int | None:
        return self.cpus_per_node

    def job_id(self, environment: Mapping[str, str]) -> str:
        array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        return _slurm_queue.task_id(array, index) if array and index else environment.get("SLURM_JOB_ID", "")

    @property
    def seconds(self) -> int | None:
        """Seconds of the time limit; None: there is none, or it is not known."""
        return None if self.time is None or self.time.upper() in _UNLIMITED else time_limit(self.time)

    def problems(self, recipe: "Recipe", cluster: "Cluster") -> list[str | Problem]:
        found = [*self._time_problems(recipe), *self._device_problems(cluster), *self._option_problems(cluster)]
        return [one if isinstance(one, Problem) else f"--cluster {cluster.reference}: {one}" for one in found]

    def notes(self, cluster: "Cluster") -> list[str]:
        if cluster.device == "cpu" or self.cpus_per_node is not None or self.exclusive:
            return []
        what = (
            f"Slurm gives the {cluster.devices_per_node} ranks of a node one core, unless the site sets another number"
        )
        return [f"slurm.cpus_per_node: not set: {what} (sinfo -o '%c %G' shows cores and GPUs of the nodes)"]

    def requested_gpus(self, cluster: "Cluster") -> dict[str, int]:
        """Return the number of GPUs of a node by type that a job requests; empty: it requests none, or not by gres."""
        if self.gres in ("auto", "gpus_per_node"):
            return {"": int(cluster.devices_per_node)} if cluster.device != "cpu" else {}
        return _slurm_nodes.gpus_of(self.gres)

    def _time_problems(self, recipe: "Recipe") -> list[str | Problem]:
        limit, every = self.seconds, recipe.checkpoint.interval
        if limit is None:
            return []
        if self.leave >= limit:
            what = f"the run would leave {self.leave} s before the end of {limit} s: no time is left to train"
            return [f"slurm.leave: {what} (cluster.slurm.leave={limit // 3}, or a longer slurm.time)"]
        if every is not None and every > limit - self.leave:
            what = f"{recipe.checkpoint.every} is more than the {limit - self.leave} s that a job trains for"
            what += f" ({self.time} of slurm.time"
            return [Problem("checkpoint.every", f"{what}, less slurm.leave): a job that dies would have saved nothing")]
        return []

    def _device_problems(self, cluster: "Cluster") -> list[str]:
        """Return a problem if the generic resources have fewer GPUs than ranks, else an empty list.

        A GRES is `name[:type][:count]`. A GRES with several types is not checked.
        """
        found = re.fullmatch(r"gpu(?::[A-Za-z][^:,]*)?(?::(\d+))?", self.gres)
        ranks = cluster.devices_per_node
        if not found or ranks == "auto" or ranks <= (count := int(found[1] or 1)):
            return []
        what = f"{ranks} ranks on a node that is asked for {count} of its GPUs (slurm.gres: {self.gres})"
        return [f"devices_per_node: {what}"]

    def _option_problems(self, cluster: "Cluster") -> list[str]:
        problems = []
        for option in self.options:
            found = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?|-([a-zA-Z])\S*", option)
            if not found:
                problems.append(f"slurm.options: {option!r}: should be as in --comment=text, each for itself")
            elif (found[1] or found[3]) in _SCRIPT_OPTIONS:
                name = f"--{found[1]}" if found[1] else f"-{found[3]}"
                problems.append(f"slurm.options: {name} is set by the launcher")
            elif found[1] == "export" and cluster.env_from:
                problems.append("slurm.options: --export is set by the launcher for env_from (leave one of them out)")
        return problems


class Scheduler(SchedulerBase[BatchScript]):
    config: Config
    supports_arrays = True

    def render(self, request: JobRequest) -> BatchScript:
        return _slurm_script.render(request, self.config)

    def submit(self, job: BatchScript) -> SubmittedJob:
        assert job.file is not None
        job.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(job.file, job.text)
            return SubmittedJob(_slurm_queue.submit(job.argv))
        except BaseException:
            job.file.unlink(missing_ok=True)
            raise

    def validate(self, job: BatchScript) -> str:
        try:
            answer = _slurm_queue.test(job.test_argv, job.text)
        except _slurm_queue.SlurmRefusal as refusal:
            raise JobRefused(f"Slurm refuses this job: {refusal.message}") from None
        # sbatch prints the id of a trial job; the real one gets another id
        return f"Slurm: {re.sub(r'^Job [0-9]+ to start', 'the job is to start', answer)}"

    def complete(self, cluster: "Cluster") -> "Cluster":
        config = self.config
        requested = config.requested_gpus(cluster)
        if config.cpus_per_node is not None or config.exclusive or not requested:
            return cluster
        cores = _slurm_nodes.cores_of(config.partition, requested)
        return cluster.with_scheduler(config.model_copy(update={"cpus_per_node": cores}))

    def state(self, id: str, run: Path) -> JobState | None:
        job = _slurm_queue.job(id)
        return job_state(job) if job is not None and is_of_run(job, run) else None

    def cancel(self, ids: Sequence[str]) -> None:
        _slurm_queue.cancel(ids)

    def findings(self) -> list[Finding]:
        return _slurm_doctor.findings(self.config.partition)

    def node_commands(self, cluster: "Cluster", arguments: Sequence[str]) -> dict[str, list[str]]:
        return {"": _slurm_doctor.command(self.config, cluster, arguments, os.environ)}

    def task_id(self, id: str, point: int | Literal["*"]) -> str:
        return _slurm_queue.task_id(id, str(point))

    def notes(self) -> list[str]:
        """Return a note about how often and how long a job may run with its requeues; empty: it does not requeue."""
        from launcher.plan.run_estimates import duration

        if self.config.requeue == "never" or not self.config.max_requeues:
            return []
        starts, limit = 1 + self.config.max_requeues, self.config.seconds
        most = "as long as their time limits allow" if limit is None else f"{duration(starts * limit)} of running time"
        return [f"until all steps are done the job may start {starts} times, {most} (--max-requeues)"]
