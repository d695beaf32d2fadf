"""DeepSpeed's ZeRO (Rajbhandari et al., 2020): 0 shards nothing, 1 the moments, 2 also the gradients, 3 also the
parameters.

Its configuration is derived from the recipe; `extra` is for the rest. Accumulation, clipping, loss scale, schedule and
checkpoints stay the launcher's, so that they mean the same as under any other strategy.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from launcher.config.types import Plugin
from launcher.strategies import Bare, Holding

if TYPE_CHECKING:
    from launcher.plan.architecture import Architecture

LIBRARIES = ("deepspeed",)

_OURS = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.global_batch and train.max_tokens",
    "gradient_accumulation_steps": "train.max_tokens",
    "managed_gradient_accumulation": "train.max_tokens",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "amp": "train.precision",
    "torch_autocast": "train.precision",
    "zero_optimization.stage": "strategy.zero",
    "zero_optimization.offload_optimizer": "strategy.offload",
    "zero_optimization.offload_param": "strategy.offload",
    "zero_optimization.reduce_bucket_size": "strategy.bucket_mb",
    "zero_optimization.allgather_bucket_size": "strategy.bucket_mb",
    "activation_checkpointing": "train.activation_checkpointing",
    "data_types": "train.precision",
    "seed": "seed",
}


class Config(Plugin):
    """`offload`: what lives in host memory: none, the optimizer (zero 1 to 3), or all: the parameters too (zero 3).
    `bucket_mb`: MiB of gradients or parameters that travel at once. `extra`: keys of DeepSpeed's own configuration."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero: Literal[0, 1, 2, 3] = 1
    offload: Literal["none", "optimizer", "all"] = "none"
    bucket_mb: float = Field(50.0, gt=0)
    extra: dict[str, Any] = {}


def check(config: Config, ranks: int) -> str | None:
    if config.offload != "none" and config.zero < (3 if config.offload == "all" else 1):
        least = "3" if config.offload == "all" else "1, 2 or 3"
        return f"offload: {config.offload} needs zero: {least}, not {config.zero}"
    return None


def refuses(config: Config, recipe: Any, count: int) -> list[tuple[str, str]]:
    out = [
        (f"strategy.extra.{key}", f"is decided by {ours} (set it there)")
        for key in _keys(config.extra)
        if (ours := _decider(key))
    ]
    if not isinstance(config.extra.get("zero_optimization", {}), dict):
        out.append(("strategy.extra.zero_optimization", "should be a map of keys and values"))
    if recipe.train.precision == "fp64":
        out.append(("strategy", "DeepSpeed keeps parameters in fp32: train.precision fp64 needs ddp or fsdp"))
    if config.zero == 3 and recipe.train.compile:
        out.append(("train.compile", "zero: 3 gathers parameters in the middle of a layer (take fsdp, or zero: 2)"))
    return out


def layouts(ranks: int) -> list[Config]:
    return [Config(zero=stage) for stage in (0, 1, 2, 3)] if ranks > 1 else []  # type: ignore[arg-type]


def holding(config: Config, shape: "Architecture", ranks: int) -> Holding:
    share, bucket = 1 / ranks, int(config.bucket_mb * 2**20)
    if config.zero == 0:
        return Holding(gradients=2.0)  # all of them are copied into one tensor to be reduced
    # ZeRO 1 and 2 keep the whole parameters and an updated copy of the rank's part of them
    weights = 1 + share if config.zero < 3 else 2 * share
    return Holding(
        weights=weights,
        gradients={1: 1.0, 2: 2 * share, 3: share}[config.zero],  # ZeRO 2 adds up micro-batches in a second copy
        optimizer=share,
        gathered=shape.parameters - shape.in_layers + 2 * shape.largest_layer if config.zero == 3 else 0,
        flat=2 * bucket,
    )


def load(device: str) -> None:
    from launcher.strategies import _zero

    _zero.load(device)


def wrap(config: Config, bare: Bare) -> Any:
    from launcher.strategies import _zero

    return _zero.wrap(config.zero, settings(config, bare.precision), bare)


def settings(config: Config, precision: str) -> dict[str, Any]:
    """DeepSpeed's own configuration."""
    numbers = int(config.bucket_mb * 2**18)  # of 4 bytes
    zero: dict[str, Any] = {
        "stage": config.zero,
        "reduce_bucket_size": numbers,
        "allgather_bucket_size": numbers,
        "overlap_comm": False,
    }
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    if config.zero == 3:
        # a parameter is let go after its use, a small one too: what DeepSpeed keeps by default is most of an encoder
        zero |= {"stage3_max_reuse_distance": 0, "stage3_param_persistence_threshold": 0}
        zero |= {"stage3_prefetch_bucket_size": numbers}
    half = {"bf16": "bfloat16", "fp16": "float16"}.get(precision)
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's own fused AdamW runs on the host as well
    }
    if half:
        ours["torch_autocast"] = {"enabled": True, "dtype": half, "lower_precision_safe_modules": []}
    return _merged(ours, config.extra)


def _merged(ours: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    out = dict(ours)
    for key, value in extra.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def _keys(extra: dict[str, Any], path: str = "") -> list[str]:
    """The dotted keys of a nested map: those of maps, and those of values."""
    out = list[str]()
    for key, value in extra.items():
        inner = f"{path}{key}"
        out += [inner, *(_keys(value, f"{inner}.") if isinstance(value, dict) else [])]
    return out


def _decider(key: str) -> str | None:
    """The recipe's key that decides one of DeepSpeed's."""
    return _OURS.get(key)
