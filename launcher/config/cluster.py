"""The cluster profile: where to train."""

from typing import Annotated, Literal

from pydantic import Field

from launcher.config.types import Strict

Auto = Literal["auto"]


class Cluster(Strict):
    """`memory_per_device` in GiB; `peak_tflops` of one device in the precision of the recipe."""

    name: str = "local"
    kind: Literal["local"] = "local"
    nodes: Literal[1] = 1
    devices_per_node: Auto | Annotated[int, Field(gt=0)] = "auto"
    device: Auto | Literal["cpu", "cuda", "xpu", "mps"] = "auto"
    memory_per_device: Auto | Annotated[float, Field(gt=0)] = "auto"
    peak_tflops: Auto | Annotated[float, Field(gt=0)] = "auto"
    interface: str = "auto"
    env: dict[str, str] = {}
    max_restarts: int = Field(0, ge=0)
