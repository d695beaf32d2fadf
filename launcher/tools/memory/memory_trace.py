"""The memory of one rank of a plan, traced on fake tensors in a child process.

No GPU, no other rank and no value is needed: the child builds rank 0 with the run's own model, strategy, optimiser and
loss, and takes two steps of at most two micro-batches with the longest samples.
"""

import json
import subprocess
import sys

from launcher.config.recipe import Recipe
from launcher.plan import memory
from launcher.plan.memory import MemoryTrace
from launcher.plan.plan import Plan

_SECONDS = 600
"""Time limit for a trace."""
_HELD = ("weights", "gradients", "optimizer")
"""Purposes that a strategy can move into host memory."""


def traced(plan: Plan, recipe: Recipe) -> Plan:
    """Return the plan with the memory of rank 0. `recipe`: with pinned commits."""
    if plan.prepared is None:
        return plan.model_copy(update={"trace": MemoryTrace(problem="known after `launcher prepare`")})
    if recipe.strategy.kind == "deepspeed" and recipe.strategy.model_dump()["zero"] == 3:
        what = "ZeRO 3 of DeepSpeed compares values of the ranks while it runs, and fake tensors have none"
        return plan.model_copy(update={"trace": MemoryTrace(problem=what)})
    on_host = [name for name in _HELD if plan.device == "cuda" and not plan.memory[name]]
    question = {
        "recipe": recipe.model_dump(mode="json"), "prepared": plan.prepared, "ranks": plan.ranks,
        "device": plan.device, "on_host": on_host,
    }  # fmt: skip
    found = _run_child(json.dumps(question))
    if plan.device == "cuda" and not found.problem:
        found = found.model_copy(update={"purposes": memory.on_cuda(found.purposes, plan.ranks)})
    return plan.model_copy(update={"trace": found})


def _run_child(question: str) -> MemoryTrace:
    """Return the answer of the child process, which has the module search path of this process."""
    begin = (
        f"import sys; sys.path[:] = {sys.path!r}; from launcher.tools.memory._memory_trace_process import main; main()"
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", begin], input=question, check=False, capture_output=True, text=True,
            errors="replace", timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return MemoryTrace(problem=f"not done after {_SECONDS} s")
    try:
        if answer.returncode == 0:
            return MemoryTrace.model_validate_json(answer.stdout)
    except ValueError:
        pass
    last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
    return MemoryTrace(problem=f"the rank could not be built: {last[:300]}")
