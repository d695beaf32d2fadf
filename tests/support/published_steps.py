"""Published speeds of trainings on GPUs, and what the plan predicts for the same model, batch and devices."""

from dataclasses import dataclass
from typing import Any

import support
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan import device_rates, step_work
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.plan.step_time import StepTime

BERT_LARGE = (1024, 24, 16, 30522)
BERT_4B = (2560, 48, 32, 30522)
MPT = {"1b": (2048, 24, 16), "3b": (2560, 32, 20), "7b": (4096, 32, 32), "13b": (5120, 40, 40)}
PURE = {"kind": "fsdp", "gather": "bf16", "reduce": "bf16"}
SHARDED = {"kind": "fsdp", "gather": "bf16"}
HALF_GRADIENTS = {"kind": "ddp", "compress": "bf16"}


@dataclass(frozen=True)
class Published:
    """A published speed. `speed`: in tokens per second of all devices. `sizes`: width, layers, heads, vocabulary."""

    source: str
    model: str
    sizes: tuple[int, ...]
    gpu: str
    devices: int
    length: int
    micro_batch: int
    global_batch: int
    speed: float
    strategy: dict[str, Any]
    per_node: int = 8
    causal: bool = False
    precision: str = "bf16"
    recomputed: bool = False
    dropout: float = 0.1

    @property
    def facts(self) -> Facts:
        return Facts(
            digest="x", vocab_size=self.sizes[3], pad_token_id=0, mask_token_id=1, special_ids=[], labels=[],
            longest=self.length, samples={"train": 1}, tokens={"train": self.length}, baseline={},
            lengths={self.length: 1},
        )  # fmt: skip

    @property
    def shape(self) -> Architecture:
        """Sizes by the usual count of a transformer's parameters: 12 x width^2 + 13 x width in a layer."""
        width, layers, heads, vocabulary = self.sizes
        in_layers = layers * (12 * width**2 + 13 * width)
        total = in_layers + width * (vocabulary + max(512, self.length))
        return Architecture(
            name=self.model, parameters=total, trained=total, buffers=0, in_layers=in_layers,
            largest_layer=in_layers // layers, largest_parameter=vocabulary * width, hidden=width, layers=layers,
            heads=heads, attention_dropout=self.dropout,
        )  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        train = {
            "global_batch": self.global_batch, "steps": 1, "precision": self.precision,
            "max_tokens": self.micro_batch * self.length, "padding_free": False,
            "activation_checkpointing": "layers" if self.recomputed else "none",
        }  # fmt: skip
        task = {"kind": "causal_lm" if self.causal else "mlm"}
        return Recipe.model_validate(
            support.mlm(train=train, task=task, strategy=self.strategy, data__max_length=self.length)
        )

    def predicted(self) -> StepTime:
        kind = device_rates.KINDS[self.gpu]
        cluster = Cluster.model_validate({"device": "cuda"})
        nodes = -(-self.devices // self.per_node)
        rates = device_rates.rates(cluster, kind, self.precision, min(self.devices, self.per_node), nodes)
        found = step_work.step_time(self.recipe, self.shape, self.facts, self.devices, rates)
        assert found is not None
        return found

    @property
    def predicted_speed(self) -> float:
        return self.global_batch * self.length / self.predicted().total

    @property
    def ratio(self) -> float:
        return self.predicted_speed / self.speed

    @property
    def line(self) -> str:
        """The figure's row of the table in docs/scaling.md."""
        batch = f"{self.micro_batch} x {self.length:,}"
        cells = (self.source, self.model, f"{self.devices} {self.gpu}", batch, f"{self.predicted_speed:,.0f}")
        return "| " + " | ".join((*cells, f"{self.speed:,.0f}", f"{self.ratio:.2f}")) + " |"


def _bert_large(source, gpu, devices, length, micro_batch, of_device, samples, per_node=8):
    return Published(
        source, "BERT-large", BERT_LARGE, gpu, devices, length, micro_batch, of_device * devices, samples * length,
        HALF_GRADIENTS if devices > 1 else {"kind": "single"}, per_node=per_node, precision="fp16",
    )  # fmt: skip


def _mpt(size, gpu, devices, micro_batch, global_batch, speed, strategy=SHARDED, recomputed=False):
    return Published(
        "llm-foundry", f"MPT {size}", (*MPT[size], 50368), gpu, devices, 2048, micro_batch, global_batch, speed,
        strategy, causal=True, recomputed=recomputed, dropout=0.0,
    )  # fmt: skip


FIGURES = [
    # NVIDIA DeepLearningExamples, PyTorch/LanguageModeling/BERT/README.md, container 21.11: sequences per second
    _bert_large("BERT 2021", "A100", 1, 128, 256, 8192, 580),
    _bert_large("BERT 2021", "A100", 8, 128, 256, 8192, 4553),
    _bert_large("BERT 2021", "A100", 64, 128, 256, 1024, 35774),
    _bert_large("BERT 2021", "A100", 256, 128, 256, 256, 138294),
    _bert_large("BERT 2021", "V100", 1, 128, 64, 4096, 224),
    _bert_large("BERT 2021", "V100", 8, 128, 64, 4096, 1746),
    # The same page at commit 23a6382, container 19.07
    _bert_large("BERT 2019", "V100", 1, 128, 64, 4096, 181.76, per_node=16),
    _bert_large("BERT 2019", "V100", 16, 128, 64, 4096, 2775.04, per_node=16),
    _bert_large("BERT 2019", "V100", 1, 512, 8, 2048, 32.32, per_node=16),
    _bert_large("BERT 2019", "V100", 16, 512, 8, 2048, 488.96, per_node=16),
    _bert_large("BERT 2019", "V100", 128, 128, 16, 512, 12144.64),
    _bert_large("BERT 2019", "V100", 128, 512, 4, 256, 2746.368),
    # NVIDIA NeMo, BERT of 4B parameters: tokens per second
    *(
        Published("NeMo", "BERT 4B", BERT_4B, "A100", 8 * nodes, 512, 8, 2048, speed, HALF_GRADIENTS)
        for nodes, speed in ((1, 57287), (2, 108695), (4, 215358), (8, 393167), (16, 728178))
    ),
    # MosaicML llm-foundry, scripts/train/benchmarking/README.md: tokens per second
    _mpt("1b", "A100", 8, 14, 448, 164109),
    _mpt("3b", "A100", 8, 10, 160, 86491),
    _mpt("7b", "A100", 8, 6, 96, 37130),
    _mpt("3b", "A100-40GB", 128, 6, 768, 1220885, PURE),
    _mpt("7b", "A100-40GB", 128, 18, 2304, 463749, PURE, recomputed=True),
    _mpt("13b", "A100-40GB", 128, 16, 2048, 252444, PURE, recomputed=True),
    _mpt("1b", "H100", 8, 14, 112, 363645),
    _mpt("1b", "H100", 64, 20, 1280, 2841754),
    _mpt("3b", "H100", 64, 6, 1152, 1441663),
    _mpt("7b", "H100", 8, 6, 48, 85144),
    _mpt("13b", "H100", 64, 2, 128, 307209),
]
