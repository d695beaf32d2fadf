"""A model whose attention refuses fp32, as flash attention does, is tried, trained, evaluated and used for predictions.

No GPU is needed: the attention is torch's own, registered with transformers under another name, and raises an error for
fp32. So it shows every call of the model outside of autocast.
"""

import re

import pytest
import support
from support import ranks

from launcher.distributed import process_group

PICKY = '''
from typing import Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import get_target_dtype
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from launcher.models import config


def attend(module, query, key, value, attention_mask, **options):
    """torch's attention, for half precision alone. Like flash attention's, its inputs are cast inside of autocast."""
    if (dtype := get_target_dtype(query, module)) is not None:
        query, key, value = (one.to(dtype) for one in (query, key, value))
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise RuntimeError("picky attention only supports fp16 and bf16 data type")
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register("picky", attend)
AttentionMaskInterface.register("picky", sdpa_mask)


class Config(config.Config):
    """A transformers model with picky attention."""

    kind: Literal["own.picky"] = "own.picky"
    attention: str | None = "picky"


class Model(config.Model):
    pass
'''


def write(name="tiny", **changes):
    support.plugin("picky", PICKY)
    return support.write(
        support.changed(support.mlm(name, **{"train__precision": "bf16", **changes}), model__kind="own.picky")
    )


def test_a_run_from_plan_to_prediction(workspace):
    """Two ranks that split each sample, because nothing else tries a model as often before it trains; and what comes
    after the run."""
    strategy = {"kind": "ddp", "tensor_parallel": 2}
    file = write(strategy=strategy, model__dropout=0.1, train__steps=2, evaluate__every=2)
    done = support.launcher("run", file, "--ranks", 2)
    told = done.stdout + done.stderr
    assert "draws random numbers" not in told and "the head runs on all positions" not in told
    assert len(support.steps("runs/tiny")) == 2
    support.launcher("evaluate", "runs/tiny")
    support.launcher("predict", "runs/tiny", "--data", "corpus.txt", "--to", "out.jsonl")


@pytest.mark.parametrize("task", ["mlm", "causal_lm"])
@pytest.mark.parametrize("samples", ["documents", "packed"])
def test_each_test_of_a_model_takes_half_precision(workspace, monkeypatch, task, samples):
    monkeypatch.syspath_prepend(str(workspace))
    type_ = "bert" if task == "mlm" else "llama"
    run = ranks.built(
        process_group.connect(process_group.RankInfo()),
        ranks.ready(write(f"{task}-{samples}", task={"kind": task, "samples": samples}, model__type=type_)),
    )
    assert run.engine.unwrapped.config._attn_implementation == "picky"
    assert not run.randomness.unreproducible


def test_in_fp32_it_is_one_line_with_the_place(workspace):
    done = support.launcher("run", write(train__precision="fp32"), code=2)
    told = (
        r"model: BertForMaskedLM cannot compute a sample of mlm: RuntimeError: picky attention only supports fp16 and"
    )
    assert re.search(told + r" bf16 data type \(.*own/picky\.py:\d+\)", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
