"""DeepSpeed's ZeRO (Rajbhandari et al., 2020).

Stage 0 shards nothing, stage 1 the optimiser state, stage 2 also the gradients, stage 3 also the parameters. The
configuration of DeepSpeed is derived from the recipe; `extra` adds keys. Accumulation, clipping, loss scale, schedule
and checkpoints are the launcher's, so that they are the same as under any other strategy.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from launcher import strategies
from launcher.config.base_model import hint
from launcher.config.types import StrategyConfig
from launcher.plan.collectives import Collective, RankStep
from launcher.strategies import Engine, EngineParts, MemoryShare
from launcher.strategies._deepspeed_settings import Settings
from launcher.strategies._parallel_degrees import refuse_sharded_matrices

if TYPE_CHECKING:
    from launcher.config.recipe import Recipe
    from launcher.plan.model_spec import Architecture

_DECIDED = {
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
    "data_types": "train.precision",
    "zero_optimization.stage": "strategy.zero",
    "zero_optimization.offload_optimizer": "strategy.offload",
    "zero_optimization.offload_param": "strategy.offload",
    "zero_optimization.cpu_offload": "strategy.offload",
    "zero_optimization.reduce_bucket_size": "strategy.bucket_mb",
    "zero_optimization.allgather_bucket_size": "strategy.bucket_mb",
    "activation_checkpointing": "train.activation_checkpointing",
    "seed": "seed",
}
"""DeepSpeed's keys that follow from the recipe, each with the recipe's key."""
_SPEED = {
    "aio", "comms_logger", "dump_state", "flops_profiler", "memory_breakdown", "steps_per_print",
    "wall_clock_breakdown", "zero_optimization.allgather_partitions", "zero_optimization.contiguous_gradients",
    "zero_optimization.overlap_comm", "zero_optimization.reduce_scatter", "zero_optimization.round_robin_gradients",
    "zero_optimization.stage3_max_live_parameters", "zero_optimization.stage3_max_reuse_distance",
    "zero_optimization.stage3_module_granularity_threshold",
    "zero_optimization.stage3_param_persistence_threshold", "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.stage3_use_all_reduce_for_fetch_params", "zero_optimization.sub_group_size",
    "zero_optimization.use_multi_rank_bucket_allreduce",
}  # fmt: skip
"""DeepSpeed's keys that affect only the speed and the log of a step, not its result."""


class Config(StrategyConfig):
    """DeepSpeed ZeRO."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero: Literal[0, 1, 2, 3] = 1
    """ZeRO stage."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Contents of host memory: nothing, the optimiser state (zero 1 to 3), or the parameters too (zero 3)."""
    bucket_mb: float = Field(50.0, gt=0)
    """MiB of gradients or parameters in one communication."""
    extra: Settings = {}
    """Keys of DeepSpeed's own configuration."""


class Strategy(strategies.Strategy[Config]):
    libraries = ("deepspeed",)

    def check(self, ranks: int) -> str | None:
        if self.config.offload != "none" and self.config.zero < (3 if self.config.offload == "all" else 1):
            least = "3" if self.config.offload == "all" else "1, 2 or 3"
            return f"offload: {self.config.offload} needs zero: {least}, not {self.config.zero}"
        return None

    def refusals(self, recipe: "Recipe", heads: int) -> list[tuple[str, str]]:
        out = [
            (f"strategy.extra.{key}", f"is decided by {_DECIDED[key]} (set it there)")
            if key in _DECIDED
            else (f"strategy.extra.{key}", f"is none that changes speed alone ({hint(key, _SPEED)})")
            for key in _keys(self.config.extra)
            if key not in _SPEED
        ]
        if not isinstance(self.config.extra.get("zero_optimization", {}), dict):
            out.append(("strategy.extra.zero_optimization", "should be a map of keys and values"))
        if recipe.train.precision == "fp64":
            out.append(("strategy", "DeepSpeed keeps parameters in fp32: train.precision fp64 needs ddp or fsdp"))
        if self.config.zero == 3 and recipe.train.compile:
            out.append(("train.compile", "zero: 3 gathers parameters in the middle of a layer (take fsdp, or zero: 2)"))
        if self.config.zero and recipe.model.unfreeze_at:
            what = (
                "DeepSpeed counts one number of steps for all parameters, wrong for those that thaw (take ddp or fsdp)"
            )
            out.append(("model.unfreeze_at", what))
        return out + (refuse_sharded_matrices(recipe, "ddp") if self.config.zero else [])

    @staticmethod
    def layouts(ranks: int) -> list[Config]:
        return [Config(zero=stage) for stage in (0, 1, 2, 3)] if ranks > 1 else []

    def state_share(self, ranks: int, of_node: int) -> float:
        return of_node / ranks if self.config.zero else 1.0

    def memory_share(self, shape: "Architecture", ranks: int) -> MemoryShare:
        share, bucket = 1 / ranks, int(self.config.bucket_mb * 2**20)
        if self.config.zero == 0:
            return MemoryShare(gradients=2.0)  # they are copied into one tensor to be reduced
        # Whole parameters (ZeRO 1, 2) or a share of them (3), and an updated copy of this rank's. ZeRO 2 adds up
        # micro-batches in a second copy. Of what travels there are a bucket and its copy.
        whole = {1: 1.0, 2: 1.0, 3: share}[self.config.zero]
        host = {"none": 0.0, "optimizer": 2 * share, "all": 3 * share}[self.config.offload]
        on_host = self.config.offload != "none"
        return MemoryShare(
            weights=0.0 if self.config.offload == "all" else whole + share * (not on_host),
            gradients={1: 1.0, 2: 2 * share, 3: share}[self.config.zero],
            optimizer=share * (not on_host),
            gathered=shape.parameters - shape.in_layers + 2 * shape.largest_layer if self.config.zero == 3 else 0,
            flat=(4 if self.config.zero == 3 else 2) * bucket,
            host=host,
            moved=share * on_host,
        )

    def collectives(self, shape: "Architecture", step: RankStep) -> list[Collective]:
        """Return what the ranks exchange, as DeepSpeed 0.19 does: stages 1 and 2 all-reduce gradients and gather the
        updated parameters. Stage 2 reduces each micro-batch. Stage 3 gathers in the backward what the prefetched
        parameters do not hold still."""
        bucket, stage = self.config.bucket_mb * 2**20, self.config.zero
        size, trained = shape.parameters * 4, shape.trained * 4
        times = step.micro_batches if stage >= 2 else 1
        ranks = step.ranks

        def calls(of: float) -> int:
            return max(1, round(of / bucket))

        if stage == 3:
            again = max(0.0, size - bucket)
            return [
                Collective("all-gather", size * times, calls(size) * times, ranks, "forward"),
                Collective("all-gather", again * times, calls(again) * times, ranks, "backward"),
                Collective("reduce-scatter", trained * times, calls(trained) * times, ranks, "backward"),
            ]
        gradients = Collective(
            "all-reduce", trained * times, calls(trained) * times, ranks, "backward" if stage == 2 else "last backward",
            waits=stage == 0,
        )  # fmt: skip
        updated = Collective("all-gather", trained, calls(trained), ranks, "update")
        return [gradients, updated] if stage else [gradients]

    def load(self, device: str) -> None:
        from launcher.strategies import _deepspeed_process

        _deepspeed_process.load(device)

    def wrap(self, unwrapped: EngineParts) -> Engine:
        from launcher.strategies import _deepspeed_settings, _zero_engine

        device = unwrapped.process.device.type
        settings = _deepspeed_settings.settings(self.config, unwrapped.precision, device)
        return _zero_engine.wrap(self.config.zero, settings, unwrapped)


def _keys(extra: Settings) -> list[str]:
    """Return the keys of a configuration; those inside zero_optimization are dotted."""
    zero = extra.get("zero_optimization", {})
    inner = [f"zero_optimization.{key}" for key in zero] if isinstance(zero, dict) else []
    return [key for key in extra if key != "zero_optimization"] + inner
