"""Checks of the machine: versions, attention kernels, the plan, and processes forked before a device is used."""

import importlib.metadata
import multiprocessing
import os
import platform

from benchmarks.gpu import training
from benchmarks.gpu.harness import Figures, Machine, Mismatch

_PACKAGES = ("torch", "transformers", "deepspeed", "numpy", "flash-attn", "kernels", "nvidia-ml-py", "triton")


def describe(machine: Machine) -> Figures:
    """Return versions, the device, the chosen attention kernels, and the plan's memory of bert-base."""
    from launcher.config import env_vars

    env_vars.set_rank_defaults(os.environ)  # before torch reads them
    import torch

    figures: Figures = {"python": platform.python_version(), "versions": _versions(), "cuda": torch.version.cuda}
    if not machine.rehearses:
        properties = torch.get_device_module().get_device_properties(0)
        figures |= {"device": properties.name, "memory": properties.total_memory, "nccl": _nccl()}
    figures["attention"] = _kernels(machine)
    small = training.SMALL if machine.rehearses else ()
    arguments = ["plan", str(training.recipe(machine, "bert-base")), f"cluster.device={machine.kind}", *small]
    figures["plan"] = training.launcher(machine, *arguments).stdout
    return figures


def fork_server(machine: Machine) -> Figures:
    """Check that the server from which ranks are forked does not use the device, and that its children can."""
    from launcher.launch import elastic_agent

    elastic_agent.warm_up(())
    context = multiprocessing.get_context("forkserver")
    with context.Pool(2) as pool:
        sums, initialized = zip(*pool.map(_use_device, [machine.kind] * 2), strict=True)
    if any(initialized):
        raise Mismatch("the device was in use before the fork")
    if set(sums) != {3.0}:
        raise Mismatch(f"the children computed {sums}")
    training.run(machine, "mlm", "train.steps=2", "name=fork-server")
    return {"children": len(sums)}


def _use_device(kind: str) -> tuple[float, bool]:
    import torch

    initialized = torch.cuda.is_available() and torch.cuda.is_initialized()
    return float(torch.ones(3, device=kind).sum()), initialized


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _nccl() -> str:
    import torch

    return ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else ""


def _kernels(machine: Machine) -> dict[str, str]:
    """Return the kernel of scaled_dot_product_attention in bf16, without and with a mask and dropout."""
    import torch
    from torch.nn.attention import SDPBackend

    query = torch.randn(8, 12, 512, 64, dtype=torch.bfloat16, device=machine.kind)
    mask = torch.ones(8, 1, 512, 512, dtype=torch.bool, device=machine.kind)
    names = {backend.value: name for name, backend in SDPBackend.__members__.items()}
    chosen = {}
    for given, value in (("none", None), ("mask", mask)):
        for dropout in (0.0, 0.1):
            number = torch._fused_sdp_choice(query, query, query, attn_mask=value, dropout_p=dropout)
            chosen[f"{given}, dropout {dropout}"] = names.get(number, str(number))
    return chosen
