"""The batch script of a job, rendered as text without side effects.

slurm/README.md explains the script. Every value from outside is quoted: for the shell with shlex, in an #SBATCH line by
Slurm's own rules.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import launcher
from launcher.config import env_vars, paths
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.distributed.exit_codes import INVALID_INPUT, NODE_FAILURE, STOPPED
from launcher.schedulers import JobRequest, RenderedJob
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    from launcher.schedulers.slurm import Config, Container

TEMPLATE = "job.sbatch.j2"
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")


@dataclass(frozen=True)
class BatchScript(RenderedJob):
    """A script for sbatch. `passed_on`: names of variables that the job gets from the environment of sbatch.
    `test_argv`: command that asks Slurm about the text on standard input."""

    passed_on: tuple[str, ...] = ()

    test_argv = ("sbatch", "--test-only")

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that queues the file. Slurm stores the job's environment, also for its requeues. An option has
        precedence over SBATCH_EXPORT, which could hold NONE."""
        export = (f"--export={','.join(('ALL', *self.passed_on))}",) if self.passed_on else ()
        return ("sbatch", "--parsable", *export, str(self.file))


def quote(value: str) -> str:
    """Quote a value of an #SBATCH line. Raises UserError for a value that a line cannot contain.

    Slurm reads a word between double quotes, in which a backslash keeps the next character. Slurm expands nothing.
    Single quotes are not used, because Slurm removes backslashes between them too.
    """
    if not value.isprintable():
        raise UserError(
            f"{value!r}: cannot stand in a batch script (a line break, or another sign that is not printed)"
        )
    if _PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def shell(value: str) -> str:
    """Quote a value as a word of the shell. Raises UserError for a value that a line cannot contain."""
    if not value.isprintable():
        quote(value)
    return shlex.quote(value)


def render(request: JobRequest, config: "Config") -> BatchScript:
    """Return the batch script of a job. Raises UserError for a request that a script cannot express."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    plan, cluster, cwd = request.plan, request.cluster, request.working_directory
    if {"%", "\\"} & set(str(cwd)):
        raise UserError(f"{cwd}: a job's log cannot be here: Slurm would read the % or \\ as something else")
    environment = Environment(
        loader=FileSystemLoader(_templates()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False, comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    environment.filters |= {"sbatch": quote, "sh": shell, "assigned": lambda v: "" if v is None else f"={quote(v)}"}
    agent = _agent_command(request, config)
    survives = _survives_lost_nodes(cluster, config)
    text = environment.get_template(TEMPLATE).render(
        name=plan.name,
        run=str(request.run_folder),
        array=request.points is not None,
        passes_on=bool(cluster.env_from),
        slurm=config,
        sbatch_options=sbatch_options(request, config),
        env=request.variables(),
        has_local_scratch=cluster.scratch.local is not None,
        cpus='--cpus-per-task="$SLURM_CPUS_PER_TASK"' if _cpus(request, config) else "--cpu-bind=none",
        survives_lost_nodes=survives,
        step_options="--no-kill --wait=0" if survives else "--wait=120",
        program=agent.program,
        srun_options=agent.srun_options,
        command=agent.command,
        starts_per_job=job_log.STARTS_PER_JOB,
        files=_files(),
        variables={
            "job": env_vars.JOB,
            "start": env_vars.START,
            "deadline": env_vars.DEADLINE,
            "cache": env_vars.CACHE,
        },
        exit_codes={"stopped": STOPPED, "unfit": NODE_FAILURE, "wrong": INVALID_INPUT},
    )
    file = RunDir(request.run_folder).jobs / paths.submitted_script(request.number)
    return BatchScript(text, file, passed_on=tuple(cluster.env_from))


def _files() -> dict[str, str]:
    """Return the files of a run folder, and of the folder of a start, that the script uses. Keys are names in the
    template."""
    report, verdict = (paths.node_message(kind, 0) for kind in (paths.NODE_REPORT, paths.NODE_VERDICT))
    return {
        "plan": paths.PLAN,
        "job_log": paths.JOB_LOG,
        "start": f"{paths.JOBS}/{paths.start_name(f'${env_vars.JOB}', f'${env_vars.START}')}",
        "report": paths.message_file(report),
        "verdict": paths.message_file(verdict),
        "code": paths.EXIT_CODE,
        "error": paths.ERROR,
        "restart": paths.RESTART,
    }


def sbatch_options(request: JobRequest, config: "Config") -> dict[str, str | None]:
    """Return the options of sbatch, without the user's own `options`; None: the option has no value."""
    plan, mail, array = request.plan, config.mail, request.points is not None
    id = "%A_%a" if array else "%j"
    throttle = f"%{config.max_running}" if config.max_running else ""
    values = {
        "job-name": plan.name,
        "chdir": str(request.working_directory),
        "output": f"{plan.folder}{'-%a' if array else ''}/{paths.LOGS}/{paths.job_output(id)}",
        "open-mode": "append",
        "nodes": _nodes(request.cluster, config),
        "array": None if request.points is None else f"{_ranges(request.points)}{throttle}",
        "cpus-per-task": str(cpus) if (cpus := _cpus(request, config)) else None,
        "mem": config.memory_per_node,
        **_devices(request, config),
        "partition": config.partition,
        "account": config.account,
        "qos": config.qos,
        "constraint": config.constraint,
        "time": config.time,
        "signal": f"B:USR1@{_signal_seconds(config.leave)}",
        "mail-user": mail.user if mail else None,
        "mail-type": mail.type if mail else None,
    }
    flags = {
        "exclusive": config.exclusive,
        "no-kill": _survives_lost_nodes(request.cluster, config),
        "requeue": config.requeue == "requeue",
        "no-requeue": config.requeue == "never",
    }
    set_values = {name: value for name, value in values.items() if value is not None}
    return set_values | {name: None for name, is_set in flags.items() if is_set}


def _nodes(cluster: Cluster, config: "Config") -> str:
    """Return the number of nodes, or a range. The range includes spare nodes, so that a job that has lost a node does
    not wait for another one."""
    minimum, maximum = cluster.nodes
    maximum += config.spares
    return str(minimum) if minimum == maximum else f"{minimum}-{maximum}"


@dataclass(frozen=True)
class _AgentCommand:
    """Command of a node's agent. `program`: executable that each node must have. `srun_options`, `command`: words of
    the shell."""

    program: str
    srun_options: str
    command: str


def _agent_command(request: JobRequest, config: "Config") -> _AgentCommand:
    container, cwd = config.container, request.working_directory
    if container is None:
        python = config.python or sys.executable
        return _AgentCommand(python, "", shell(python))
    options = " ".join([*map(shell, container.options), ""]) if container.options else ""
    mounts = _mounts(container, request.cluster, [cwd, request.cache])
    if container.kind == "pyxis":
        image = f"--container-image={shell(container.image)} --container-workdir={shell(str(cwd))}"
        pairs = ",".join(m if ":" in m else f"{m}:{m}" for m in mounts)
        srun_options = f'{image} --container-mounts={shell(pairs)},"$run:$run" {options}'.strip()
        return _AgentCommand("sh", srun_options, shell(container.python))
    binds = " ".join(f"--bind {shell(mount)}" for mount in mounts)
    gpus = "--nv " if request.plan.device == "cuda" else ""
    words = f'apptainer exec {gpus}--pwd {shell(str(cwd))} {binds} --bind "$run" {options}{shell(container.image)}'
    return _AgentCommand("apptainer", "", f"{words} {shell(container.python)}")


def _mounts(container: "Container", cluster: Cluster, needed: list[Path]) -> list[str]:
    """Return the mounted folders. Raises UserError for a name with a character that separates folders."""
    folders = [str(folder) for folder in needed] + ([cluster.scratch.local] if cluster.scratch.local else [])
    for folder in [*folders, *container.mounts]:
        if "," in folder or (":" in folder and folder in folders):
            raise UserError(
                f"{folder}: a folder with a comma or a colon in its name cannot be mounted by {container.kind}"
            )
    return [*dict.fromkeys(folders), *container.mounts]


def _devices(request: JobRequest, config: "Config") -> dict[str, str | None]:
    """Return the option that requests the devices of a node."""
    count = str(request.plan.devices_per_node)
    if config.gres == "auto":
        return {"gres": f"gpu:{count}" if request.plan.device != "cpu" else None}
    if config.gres == "gpus_per_node":
        return {"gpus-per-node": count}
    return {"gres": None if config.gres == "none" else config.gres}


def _cpus(request: JobRequest, config: "Config") -> int | None:
    """Return the CPU cores of a node; None: the site's default. On a CPU each rank needs a core, but Slurm's default is
    one for the node."""
    if config.cpus_per_node is None and request.plan.device == "cpu" and not config.exclusive:
        return request.plan.devices_per_node
    return config.cpus_per_node


def _signal_seconds(leave: int) -> int:
    """Return the seconds before the end at which Slurm should send its signal, for jobs without a deadline.

    Slurm may send it up to a minute early. In jobs with a deadline, the deadline is exact and should come first.
    """
    return max(leave - 60, leave // 4, 1)


def _survives_lost_nodes(cluster: Cluster, config: "Config") -> bool:
    return cluster.elastic or config.spares > 0


def _ranges(points: Sequence[int]) -> str:
    """Return the indices of an array in Slurm's notation, such as 0-2,5 for 0,1,2,5."""
    ranges = list[str]()
    for _, group in groupby(enumerate(sorted(points)), lambda pair: pair[1] - pair[0]):
        run = [point for _, point in group]
        ranges.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(ranges)


def _templates() -> Path:
    """Return the folder of templates, in a checkout or in an installed package."""
    package = Path(launcher.__file__).parent
    return next(
        root for root in (package.parent / "slurm", package / "_shipped" / "slurm") if (root / TEMPLATE).is_file()
    )
