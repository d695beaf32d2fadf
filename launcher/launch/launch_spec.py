"""Rendering of a plan as a Launch, by an elastic agent in this process, or by torchrun or accelerate."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.config import env_vars, paths, plugins, trust
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.training import seconds
from launcher.config.types import Plugin
from launcher.launch import Launch

if TYPE_CHECKING:
    from launcher.plan.plan import Plan

Via = Literal["elastic", "torchrun", "accelerate"]


def imports(recipe: Recipe) -> tuple[str, ...]:
    """Return the modules that the recipe's ranks import, in addition to those of every rank. Modules of the user's are
    left to the ranks."""
    parts: list[Plugin] = [recipe.model, recipe.task, recipe.optimizer, recipe.schedule, recipe.strategy, *recipe.sinks]
    modules = dict.fromkeys(type(part).__module__ for part in parts)
    own = [name for name in modules if name.startswith("launcher.")]
    try:
        return (*plugins.model(recipe.model).imports, *own)
    except UserError:  # no cache, which the plan reports
        return tuple(own)


def train(plan: "Plan", cluster: Cluster, via: Via = "elastic") -> Launch:
    """Return the launch of this machine's training ranks, on as many machines as the plan has."""
    return Launch(
        folder=Path(plan.folder),
        ranks=plan.devices_per_node,
        device=plan.device,
        threads=plan.threads or 1,
        max_restarts=plan.max_restarts,
        restart_window=None if cluster.restart_window is None else seconds(cluster.restart_window),
        timeout=cluster.timeout,
        watchdog=cluster.watchdog,
        steps=plan.steps or 0,
        env=environment(cluster),
        argv=() if via == "elastic" else _argv(plan, via),
    )


def environment(cluster: Cluster) -> dict[str, str]:
    """Return the environment variables that a profile sets for launchers and ranks."""
    return env_vars.of_interface(cluster.interface) | cluster.env


def evaluate(plan: "Plan", env: Mapping[str, str], checkpoint: str | int, split: str = "validation") -> Launch:
    """Return the launch of ranks that evaluate a checkpoint on a side of the data."""
    return Launch(
        Path(plan.folder), plan.ranks, plan.device, plan.threads or 1, job="evaluate", checkpoint=checkpoint,
        split=split, env=dict(env),
    )  # fmt: skip


def tune(plan: "Plan", env: Mapping[str, str]) -> Launch:
    """Return the launch of ranks that measure settings of the recipe (see launcher.tuning)."""
    return Launch(Path(plan.folder), plan.ranks, plan.device, plan.threads or 1, job="tune", env=dict(env))


def measure(plan: "Plan", env: Mapping[str, str], steps: int) -> Launch:
    """Return the launch of ranks that measure some steps."""
    folder, threads = Path(plan.folder), plan.threads or 1
    return Launch(folder, plan.ranks, plan.device, threads, job="measure", steps=steps, env=dict(env))


def _argv(plan: "Plan", via: Via) -> tuple[str, ...]:
    """Return the module that starts the ranks, and its arguments. The rendezvous of its agent and of the ranks is a
    file (see launcher.launch.starter)."""
    # the worker loads the stored recipe of the run folder
    trusted = [word for name in trust.all_names() for word in ("--trust", name)]
    worker = ["-m", "launcher.worker", *trusted, str(Path(plan.folder) / paths.RECIPE)]
    if via == "torchrun":
        starter = ["torch.distributed.run", "--nproc-per-node", str(plan.ranks)]
        starter += ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file"]
        starter += ["--max-restarts", str(plan.max_restarts), *worker]
    else:
        several = ["--multi_gpu"] if plan.ranks > 1 else []
        starter = ["accelerate.commands.launch", *several, "--num_processes", str(plan.ranks), "--num_machines", "1"]
        starter += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        starter += ["--rdzv_backend", "c10d", "--rdzv_conf", "store_type=file", *worker]
    return tuple(starter)
