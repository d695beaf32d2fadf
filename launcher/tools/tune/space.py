"""The settings that a search may try: those that the recipe's model and strategy support, and that fit into memory."""

import os
import shutil
import time

from launcher.config import plugins
from launcher.config.format import plural
from launcher.config.recipe import Recipe
from launcher.config.types import StrategyConfig
from launcher.plan import layout, model_requirements, model_spec
from launcher.plan.model_spec import Architecture
from launcher.plan.plan import Plan
from launcher.plan.topology import cores
from launcher.prepare.run_setup import PreparedRun
from launcher.tuning.search import Space
from launcher.tuning.setting import Setting


def of(run: PreparedRun, budget: float, nodes: int, tolerance: float) -> Space:
    """Return what may be tried of a prepared run, within a budget of seconds from now on. `nodes`: of the cluster; what
    is measured on one does not tell how strategies exchange data between several. Raises UserError."""
    recipe, plan = run.recipe, run.plan
    shape = model_spec.count(recipe, model_requirements.of(recipe, run.facts))
    tokenized = plugins.task(recipe.inner_task).tokenized
    least = max(run.facts.longest, recipe.data.max_length if tokenized else 1)
    strategies, options = list[StrategyConfig](), list[StrategyConfig]()
    if nodes == 1 and plan.ranks > 1:
        strategies = _strategies(run, shape)
        options = [one for one in plugins.strategy(recipe.strategy).variants() if _fits(run, shape, one)]
    accelerated = plan.device != "cpu"
    return Space(
        budget=budget, begun=time.time(), written=Setting.of(recipe), least_tokens=least,
        most_tokens=_most_tokens(run, shape, least), options=options, strategies=strategies,
        compiles=accelerated or shutil.which(os.environ.get("CXX", "g++")) is not None,
        workers=[4, 8] if accelerated else [1] if cores() > plan.ranks else [], tolerance=tolerance,
    )  # fmt: skip


def _strategies(run: PreparedRun, shape: Architecture) -> list[StrategyConfig]:
    """Return the other strategies that fit, those first that are expected to be faster: without further packages, and
    without an exchange inside each layer."""
    found = [other.strategy for other in layout.layouts(run.recipe, shape, run.plan.ranks)]
    own = run.recipe.strategy.model_dump()
    found = [strategy for strategy in found if strategy.model_dump() != own and _fits(run, shape, strategy)]
    return sorted(found, key=lambda one: (one.tensor_degree > 1, len(plugins.strategy(one).libraries)))


def _most_tokens(run: PreparedRun, shape: Architecture, least: int) -> int:
    """Return the tokens of a rank's whole share if all samples had maximum length, or the largest half, quarter and so
    on of it that fits. A budget that the recipe has was found to fit when the run was planned."""
    recipe, plan = run.recipe, run.plan
    shares = max(1, plan.ranks // recipe.tensor_parallel)
    tokens = -(-recipe.train.global_batch // shares) * run.facts.longest
    while tokens > least and not _fits(run, shape, recipe.strategy, tokens):
        tokens //= 2
    return max(tokens, least, recipe.train.max_tokens or 0)


def _fits(run: PreparedRun, shape: Architecture, strategy: StrategyConfig, tokens: int | None = None) -> bool:
    """Return whether a rank is expected to have enough memory. `tokens`: of a micro-batch; None: those of the
    recipe."""
    plan, recipe = run.plan, _with(run.recipe, strategy, tokens)
    needed = sum(layout.needed(recipe, shape, run.facts, plan.ranks, plan.device).values())
    return plan.memory_per_device is None or needed <= plan.memory_per_device


def _with(recipe: Recipe, strategy: StrategyConfig, tokens: int | None) -> Recipe:
    setting = Setting.of(recipe).but(strategy=strategy)
    return (setting if tokens is None else setting.but(max_tokens=tokens)).applied(recipe)


def equation(plan: Plan) -> str:
    """Return the ranks and the batch of a plan in one line."""
    return f"{plural(plan.ranks, 'rank')} on {plan.device}, {plan.equation}"
