"""An optimiser, a schedule, a strategy and a sink of a user: one file each, named by a dotted path, and typed."""

from pathlib import Path

import pytest
import support
from support import type_check

OPTIMIZER = '''
"""Lion (Chen et al., 2023)."""

from collections.abc import Callable

import torch
from pydantic import Field

from launcher import optimizers
from launcher.config.types import Beta, OptimizerConfig
from launcher.optimizers import ParameterGroup


class Config(OptimizerConfig):
    kind: str
    betas: tuple[Beta, Beta] = Field((0.9, 0.99))

    def moments(self, in_layers: float) -> float:
        return 1.0


class Lion(torch.optim.Optimizer):  # type: ignore[misc]
    def __init__(self, groups: list[ParameterGroup], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                average, (now, later) = self.state[p]["exp_avg"], group["betas"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(average.lerp(p.grad, 1 - now).sign() * group["lr"])
                average.lerp_(p.grad, 1 - later)


class Optimizer(optimizers.Optimizer[Config]):
    def build(self, groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        return Lion(groups, self.config.lr, self.config.betas)
'''
SCHEDULE = '''
"""The inverse square root of the step (Vaswani et al., 2017)."""

import math
from collections.abc import Sequence

from launcher import lr_schedules
from launcher.config.types import ScheduleConfig
from launcher.lr_schedules import Evaluation


class Config(ScheduleConfig):
    kind: str


class Schedule(lr_schedules.Schedule[Config]):
    def after_warmup(self, step: int, evaluations: Sequence[Evaluation]) -> float:
        return math.sqrt(max(1, self.warmup) / (step + 1))
'''
STRATEGY = '''
"""One process that counts its updates."""

from launcher import strategies
from launcher.config.types import StrategyConfig
from launcher.plan.model_spec import Architecture
from launcher.strategies import Engine, MemoryShare, EngineParts


class Config(StrategyConfig):
    kind: str


class Strategy(strategies.Strategy[Config]):
    def check(self, ranks: int) -> str | None:
        return None if ranks == 1 else "one rank only"

    @staticmethod
    def layouts(ranks: int) -> list[Config]:
        return []

    def memory_share(self, shape: Architecture, ranks: int) -> MemoryShare:
        return MemoryShare()

    def wrap(self, unwrapped: EngineParts) -> Engine:
        import torch

        from launcher.strategies._torch_engine import TorchEngine

        class CountingEngine(TorchEngine):
            updates = 0

            def update(self, lr: float, factor: torch.Tensor) -> None:
                super().update(lr, factor)
                CountingEngine.updates += 1
                print(f"update {CountingEngine.updates} at {lr:.6f}")

        return CountingEngine(unwrapped.model, unwrapped.model, unwrapped.optimizer.for_model(unwrapped.model))
'''
SINK = '''
"""The losses, a line each."""

from launcher import sinks
from launcher.config.types import Plugin
from launcher.sinks import Record, RunInfo


class Config(Plugin):
    kind: str
    file: str = "losses.txt"


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo) -> None:
        self._file = (about.folder / config.file).open("a")

    def write(self, record: Record) -> None:
        if "loss" in record:
            self._file.write(f"{record['step']} {record['loss']}\\n")

    def close(self, finished: bool) -> None:
        self._file.close()
'''
FILES = {"lion": OPTIMIZER, "inverse_root": SCHEDULE, "counting": STRATEGY, "losses": SINK}
RECIPE = {
    "optimizer": {"kind": "mine.lion", "lr": 1.0e-3, "weight_decay": 0.1},
    "schedule": {"kind": "mine.inverse_root", "warmup": 2},
    "strategy": {"kind": "mine.counting"},
    "sinks": ["jsonl", {"kind": "mine.losses"}],
    "checkpoint": {"every": 2},
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The current folder, with a corpus and a package of four plug-ins."""
    monkeypatch.chdir(support.corpus(tmp_path))
    Path("mine").mkdir()
    Path("mine/__init__.py").touch()
    for name, text in FILES.items():
        Path(f"mine/{name}.py").write_text(text)
    return tmp_path


def test_a_run_uses_them(mine):
    recipe = support.write(support.mlm(train__steps=4, **RECIPE))
    support.launcher("run", recipe, "--ranks", 1)
    rates = [record["lr"] for record in support.steps("runs/tiny").values()]
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3 * (2 / 3) ** 0.5, 1e-3 * (2 / 4) ** 0.5])
    assert len(Path("runs/tiny/losses.txt").read_text().splitlines()) == 4


def test_mypy_passes_on_them(mine):
    type_check.assert_accepted("mine")
