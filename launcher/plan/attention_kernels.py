"""Attention kernels of transformers that run on GPUs and in half precision only: the kinds of flash attention."""

from importlib.util import find_spec

from launcher.config.errors import Problem
from launcher.config.recipe import Recipe
from launcher.plan.topology import World

_PACKAGES = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
    "flash_attention_4": ("flash_attn", "flash-attn-4"),
}
"""Module and package of each kernel that transformers names. It takes them from the hub with `kernels` as well."""
_HALF = ("bf16", "fp16")


def needs_gpu(kernel: str | None) -> bool:
    """Return whether an attention implementation is a kind of flash attention. transformers goes by the name too."""
    return kernel is not None and "flash" in kernel


def portable(kernel: str | None) -> str | None:
    """Return an attention implementation that runs on every device, or None for the model's default in its place."""
    return None if needs_gpu(kernel) else kernel


def runnable(recipe: Recipe, device: str) -> Recipe:
    """Return the recipe for an evaluation on a device: with the default attention if its own needs a GPU."""
    if (
        device != "cpu"
        or not needs_gpu(recipe.model.attention_kernel)
        or "attention" not in type(recipe.model).model_fields
    ):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"attention": None})})


def problems(recipe: Recipe, world: World, trains: bool) -> list[Problem]:
    """Return why the kernels of a recipe's model and teacher cannot run. `trains`: False: an evaluation, in which the
    model takes the default attention on a CPU."""
    models = {"model": recipe.model} if trains or world.device != "cpu" else {}
    if recipe.task.teacher_model is not None:
        models[f"task.{recipe.task.teacher_key}"] = recipe.task.teacher_model
    return [
        Problem(f"{key}.attention", what)
        for key, model in models.items()
        for what in _obstacles(model.attention_kernel, recipe.train.precision, world)
    ]


def _obstacles(kernel: str | None, precision: str, world: World) -> list[str]:
    """Return why a kernel cannot run. The packages of other machines are not known here."""
    if kernel is None or not needs_gpu(kernel):
        return []
    out, instead = [], "or attention: sdpa"
    if precision not in _HALF:
        out.append(f"{kernel} computes in bf16 and fp16 only, and train.precision is {precision} (bf16, {instead})")
    if world.device == "cpu":
        out.append(f"{kernel} runs on GPUs only, and these ranks run on the CPU (attention: sdpa)")
    elif world.cluster.scheduler.on_this_machine and (packages := _missing(kernel)):
        what = " or ".join(packages)
        out.append(f"{kernel} needs the package {what}, which is not installed (pip install it, {instead})")
    return out


def _missing(kernel: str) -> list[str]:
    """Return the packages of which a kernel needs one, if none of them is installed; else an empty list."""
    own = [_PACKAGES[kernel]] if kernel in _PACKAGES else []
    known = [*own, ("kernels", "kernels")]
    return [] if any(find_spec(module) for module, _ in known) else [package for _, package in known]
