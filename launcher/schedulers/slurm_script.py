"""From a plan and a cluster profile to a batch script, as text: nothing is asked, written or submitted here.

slurm/README.md explains the script. Every value from outside is quoted where it stands: for the shell with shlex, in
an #SBATCH line as Slurm reads it.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launcher.config import load
from launcher.config.cluster import Cluster, Container, Slurm
from launcher.config.errors import UserError
from launcher.plan.plan import Plan

TEMPLATE = "job.sbatch.j2"
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")


@dataclass(frozen=True)
class Script:
    """`path`: where `text` is to stand when `argv` is executed. `test`: asks Slurm what it would do, with the text on
    standard input."""

    text: str
    path: Path

    @property
    def argv(self) -> tuple[str, ...]:
        return ("sbatch", "--parsable", str(self.path))

    @property
    def test(self) -> tuple[str, ...]:
        return ("sbatch", "--test-only")


def quote(value: str) -> str:
    """A value as it stands in an #SBATCH line. Slurm takes a word between double quotes, where a backslash keeps the
    sign after it; it takes backslashes away between single quotes too, and expands nothing. Raises UserError for what a
    line cannot hold."""
    if not value.isprintable():
        raise UserError(
            f"{value!r}: cannot stand in a batch script (a line break, or another sign that is not printed)"
        )
    if _PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def shell(value: str) -> str:
    """A value as a word of the shell. Raises UserError likewise."""
    if not value.isprintable():
        quote(value)
    return shlex.quote(value)


def render(
    plan: Plan, cluster: Cluster, *, cwd: Path, cache: Path, number: int = 1, points: Sequence[int] | None = None
) -> Script:
    """The batch script of a run. `cwd`: the folder that the run's is in; `cache`: where the prepared data is; `number`:
    of the run's scripts. `points`: of an array; its runs' folders are the plan's with -0, -1, ... Raises
    UserError for what cannot be expressed."""
    slurm = cluster.slurm or Slurm()
    folder = cwd / plan.folder
    if {"%", "\\"} & set(str(cwd)):
        raise UserError(f"{cwd}: a job's log cannot be here: Slurm would read the % or \\ as something else")
    environment = Environment(
        loader=FileSystemLoader(_templates()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False, comment_start_string="<#", comment_end_string="#>",
    )  # fmt: skip
    environment.filters |= {"sbatch": quote, "sh": shell, "assigned": lambda v: "" if v is None else f"={quote(v)}"}
    agent = _agent(plan, cluster, cwd, cache)
    text = environment.get_template(TEMPLATE).render(
        name=plan.name,
        run=str(folder),
        array=points is not None,
        slurm=slurm,
        wanted=wanted(plan, cluster, cwd, points),
        env=_environment(cluster, cache),
        scratch=cluster.scratch.local is not None,
        cpus='--cpus-per-task="$SLURM_CPUS_PER_TASK"' if _cpus(plan, slurm) else "--cpu-bind=none",
        held=_held(cluster),
        patience="--no-kill --wait=0" if _held(cluster) else "--wait=120",
        program=agent.program,
        around=agent.around,
        command=agent.command,
    )
    return Script(text, folder / "jobs" / f"submit-{number}.sbatch")


def wanted(plan: Plan, cluster: Cluster, cwd: Path, points: Sequence[int] | None = None) -> dict[str, str | None]:
    """The options of sbatch that are more than the user's own `options`, by name; None: it has no value."""
    slurm = cluster.slurm or Slurm()
    mail = slurm.mail
    many: dict[str, str | None] = {
        "job-name": plan.name,
        "chdir": str(cwd),
        "output": f"{plan.folder}/logs/job-%j.log" if points is None else f"{plan.folder}-%a/logs/job-%A_%a.log",
        "open-mode": "append",
        "nodes": nodes(cluster),
    }
    throttle = f"%{slurm.max_running}" if slurm.max_running else ""
    given = {
        "array": f"{_ranges(points)}{throttle}" if points is not None else None,
        "cpus-per-task": str(cpus) if (cpus := _cpus(plan, slurm)) else None,
        "mem": slurm.memory_per_node,
        **_devices(plan, slurm),
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": slurm.time,
        "signal": f"B:USR1@{_warning(slurm.leave)}",
        "mail-user": mail.user if mail else None,
        "mail-type": mail.type if mail else None,
    }
    many |= {name: value for name, value in given.items() if value is not None}
    flags = {"exclusive": slurm.exclusive, "no-kill": _held(cluster)}
    flags |= {"requeue": slurm.requeue == "requeue", "no-requeue": slurm.requeue == "never"}
    return many | {name: None for name, there in flags.items() if there}


def nodes(cluster: Cluster) -> str:
    """How many nodes Slurm is asked for, spares among them: those that are free, so that a job which has lost a node
    does not wait until there is another."""
    least, most = cluster.nodes
    most += cluster.slurm.spares if cluster.slurm else 0
    return str(least) if least == most else f"{least}-{most}"


@dataclass(frozen=True)
class _Agent:
    """`program`: what each node must have. Of the shell: `around`, options of srun, and `command`, the interpreter."""

    program: str
    around: str
    command: str


def _agent(plan: Plan, cluster: Cluster, cwd: Path, cache: Path) -> _Agent:
    slurm = cluster.slurm or Slurm()
    inside = slurm.container
    if inside is None:
        python = slurm.python or sys.executable
        return _Agent(python, "", shell(python))
    options = " ".join([*map(shell, inside.options), ""]) if inside.options else ""
    mounts = _mounts(inside, cluster, [cwd, cache])
    if inside.kind == "pyxis":
        told = f"--container-image={shell(inside.image)} --container-workdir={shell(str(cwd))}"
        many = ",".join(m if ":" in m else f"{m}:{m}" for m in mounts)
        around = f'{told} --container-mounts={shell(many)},"$run:$run" {options}'.strip()
        return _Agent("sh", around, shell(inside.python))
    binds = " ".join(f"--bind {shell(mount)}" for mount in mounts)
    gpus = "--nv " if plan.device == "cuda" else ""
    words = f'apptainer exec {gpus}--pwd {shell(str(cwd))} {binds} --bind "$run" {options}{shell(inside.image)}'
    return _Agent("apptainer", "", f"{words} {shell(inside.python)}")


def _mounts(inside: Container, cluster: Cluster, own: list[Path]) -> list[str]:
    """What the container sees of a node's folders. Raises UserError where a name has a sign that parts two."""
    folders = [str(folder) for folder in own] + ([cluster.scratch.local] if cluster.scratch.local else [])
    for folder in [*folders, *inside.mounts]:
        if "," in folder or (":" in folder and folder in folders):
            raise UserError(
                f"{folder}: a folder with a comma or a colon in its name cannot be mounted by {inside.kind}"
            )
    return [*dict.fromkeys(folders), *inside.mounts]


def _environment(cluster: Cluster, cache: Path) -> dict[str, str]:
    """The variables of the agents and their ranks; the user's own come last."""
    env = {"LAUNCHER_CACHE": str(cache)}
    if cluster.scratch.local is not None:
        env["TMPDIR"] = cluster.scratch.local
    if cluster.interface != "auto":
        env |= {"GLOO_SOCKET_IFNAME": cluster.interface, "NCCL_SOCKET_IFNAME": cluster.interface}
    return env | cluster.env


def _devices(plan: Plan, slurm: Slurm) -> dict[str, str | None]:
    """How the devices of a node are asked for."""
    count = str(plan.devices_per_node)
    asked = {"none": None, "gpus_per_node": {"gpus-per-node": count}}
    asked["auto"] = {"gres": f"gpu:{count}"} if plan.device == "cuda" else None
    return dict(asked.get(slurm.gres, {"gres": slurm.gres}) or {})


def _cpus(plan: Plan, slurm: Slurm) -> int | None:
    """CPUs of a node; None: as many as the site gives. A rank on a CPU needs one, where Slurm would give one a node."""
    if slurm.cpus_per_node is None and plan.device == "cpu" and not slurm.exclusive:
        return plan.devices_per_node
    return slurm.cpus_per_node


def _warning(leave: int) -> int:
    """Seconds before the end at which Slurm is asked for its signal, which it sends up to a minute before that. The
    deadline is exact, and should come first; the signal is for where there is none."""
    return max(leave - 60, leave // 4, 1)


def _held(cluster: Cluster) -> bool:
    """Whether the job outlives the loss of a node."""
    return cluster.elastic or (cluster.slurm is not None and cluster.slurm.spares > 0)


def _ranges(points: Sequence[int]) -> str:
    """0,1,2,5 as Slurm writes an array: 0-2,5."""
    out = list[str]()
    for _, group in groupby(enumerate(sorted(points)), lambda pair: pair[1] - pair[0]):
        run = [point for _, point in group]
        out.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(out)


def _templates() -> Path:
    """The folder of templates, in a checkout or in an installed package."""
    package = Path(load.__file__).parent.parent
    return next(
        root for root in (package.parent / "slurm", package / "_shipped" / "slurm") if (root / TEMPLATE).is_file()
    )
