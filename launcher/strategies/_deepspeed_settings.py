"""DeepSpeed's own configuration, derived from the recipe."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.strategies.deepspeed import Config

Settings = dict[str, Any]
"""Keys and values of DeepSpeed's JSON configuration."""


def settings(config: "Config", precision: str, device: str) -> Settings:
    """Return DeepSpeed's configuration for a strategy, a precision and a type of device.

    On GPUs the reduction of gradients overlaps with the backward, on a stream of its own. A CPU has no streams.
    """
    numbers = int(config.bucket_mb * 2**18)  # each of 4 bytes
    zero: Settings = {
        "stage": config.zero,
        "reduce_bucket_size": numbers,
        "allgather_bucket_size": numbers,
        "overlap_comm": device == "cuda" and config.zero > 0,
    }
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    if config.zero == 3:
        # free all parameters after use; by default DeepSpeed keeps small ones, which are most of an encoder
        zero |= {"stage3_max_reuse_distance": 0, "stage3_param_persistence_threshold": 0}
        zero |= {"stage3_prefetch_bucket_size": numbers, "stage3_max_live_parameters": 2 * numbers}
    half = {"bf16": "bfloat16", "fp16": "float16"}.get(precision)
    ours: Settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW runs on the host too
    }
    if half:
        ours["torch_autocast"] = {"enabled": True, "dtype": half, "lower_precision_safe_modules": []}
    return _merged(ours, config.extra)


def _merged(ours: Settings, extra: Settings) -> Settings:
    """Return two nested maps merged; on a conflict, `extra` wins."""
    out = dict(ours)
    for key, value in extra.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def offloads(settings: Settings) -> bool:
    """Return whether the optimiser state is in host memory."""
    return "offload_optimizer" in settings["zero_optimization"]
