"""Tiny models and samples of different lengths, for every task that takes rows without padding."""

import numpy as np
import torch

from launcher.config.training import Train
from launcher.contract.order import Order
from launcher.contract.random import Stream
from launcher.distributed import process_group
from launcher.plan.facts import Facts
from launcher.tasks import (
    causal_lm,
    mlm,
    question_answering,
    regression,
    sequence_classification,
    token_classification,
)
from launcher.train.data_loader import RankBatches

COUNT = 60
FACTS = Facts(
    digest="", vocab_size=90, pad_token_id=1, mask_token_id=4, special_ids=[0, 1, 2, 3, 4], labels=["a", "b", "c"],
    longest=24, samples={}, tokens={}, baseline={},
)  # fmt: skip
MODULES = {
    "mlm": mlm,
    "causal_lm": causal_lm,
    "sequence_classification": sequence_classification,
    "regression": regression,
    "token_classification": token_classification,
    "question_answering": question_answering,
}
ALONE = process_group.connect(process_group.RankInfo(), "cpu")
WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {**WIDTHS, "local_attention": 4, "global_attn_every_n_layers": 2},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}
RATES = {
    "distilbert": ("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"),
    "modernbert": ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"),
    "gpt2": ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
}
BERT_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")


class Memory:
    """Prepared samples of 4 to 24 tokens, for any task."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.tokens = [draw.integers(5, 90, size) for size in np.minimum(24, 4 + draw.geometric(0.15, COUNT))]

    def lengths(self, ids):
        return np.array([len(self.tokens[i]) for i in ids], dtype=np.int64)

    def rows(self, ids):
        return [self._row(int(number), self.tokens[number]) for number in ids]

    def _row(self, number, tokens):
        size = len(tokens)
        return {
            "input_ids": tokens, "begins": np.ones(size, bool), "length": size, "label": number % 3,
            "labels": tokens % 3, "words": np.arange(size), "start": number % size, "end": size - 1,
            "spans": np.stack([np.arange(size), np.arange(size) + 1], 1).ravel(), "text": "x" * size, "answers": ["x"],
            "example": number,
        }  # fmt: skip


def batches(kind, **keys):
    task = MODULES[kind].Task(MODULES[kind].Config(**keys), FACTS)
    return task, RankBatches(Memory(), Order(COUNT, 3), task, 12, 3, Stream.MASK, 0, 1, 100)


def model(task, type_, rate=0.1, dtype=torch.float64):
    """A tiny model whose attention and positions matter."""
    import transformers

    torch.manual_seed(0)
    options = {"vocab_size": 90, "pad_token_id": 1, **SIZES.get(type_, WIDTHS)}
    options |= dict.fromkeys(RATES.get(type_, BERT_RATES), rate)
    config = transformers.AutoConfig.for_model(type_, **options | task.model_options())
    made = getattr(transformers, task.auto_class).from_config(config)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.to(dtype).train()


def train(**keys):
    return Train.model_validate({"global_batch": 12, "steps": 1, "precision": "fp64", **keys})


CASES = [
    *(
        ("sequence_classification", type_)
        for type_ in ("bert", "roberta", "modernbert", "distilbert", "electra", "albert")
    ),
    *(("mlm", type_) for type_ in ("bert", "roberta", "modernbert", "distilbert")),
    ("causal_lm", "gpt2"),
    *((kind, "bert") for kind in ("regression", "token_classification", "question_answering")),
    ("question_answering", "distilbert"),
]
