"""Modules whose import waits: nothing up to the first step imports them, and who needs them gets the real ones."""

import subprocess
import sys


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_step_of_ddp_imports_no_compiler_and_compiling_brings_the_real_one() -> None:
    """Proves alone that an optimiser step, DDP and a model of transformers need no torch._dynamo, no sympy and no
    scipy.optimize, and that a later compilation finds them whole."""
    out = _run("""
from launcher.config import deferred_imports
deferred_imports.install()
import sys, torch, torch.distributed as dist
from transformers.models.bert.modeling_bert import BertConfig, BertForMaskedLM
size = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
model = BertForMaskedLM(BertConfig(**size))
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
ddp, ids = torch.nn.parallel.DistributedDataParallel(model), torch.arange(8)[None]
optimizer = torch.optim.AdamW(ddp.parameters(), fused=True)
ddp(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
optimizer.zero_grad()
print([name for name in ("torch._dynamo.eval_frame", "sympy", "scipy.linalg") if name in sys.modules])
import torch._dynamo.config as config
assert config is sys.modules["torch._dynamo"].config is torch._dynamo.config
compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager", fullgraph=True)
compiled(torch.ones(1, 2))
from torch.distributed.tensor import _decompositions
from torch.fx.experimental import symbolic_shapes
print(_decompositions.GuardOnDataDependentSymNode is symbolic_shapes.GuardOnDataDependentSymNode)
""")
    assert out.splitlines() == ["[]", "True"]


def test_the_modules_of_a_rank_import_nothing_that_a_recipe_has_to_ask_for() -> None:
    out = _run("""
from launcher.launch import elastic_agent
import importlib, sys
for name in elastic_agent.IMPORTS[1:]:
    if name == "torch.distributed":
        from launcher.config import deferred_imports
        deferred_imports.install()
    importlib.import_module(name)
print([name for name in ("datasets", "pandas", "wandb", "sklearn", "torch._dynamo.eval_frame", "sympy", "deepspeed",
    "torch.distributed.checkpoint", "transformers") if name in sys.modules])
""")
    assert out == "[]"
