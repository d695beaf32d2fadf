"""The transformers Trainer on the samples of a run: `python -m benchmarks.gpu.trainer RUN DEVICE`.

It is used as in its examples. It reads the same prepared samples in the same order, and trains a new model of the same
configuration with the same precision, optimiser and global batch. A micro-batch has as many samples as fit the run's
`max_tokens`. It prints losses, tokens per second after the first steps, and the largest memory, as a line of JSON.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset, SequentialSampler

from launcher.config import plugins
from launcher.plan import sample_order
from launcher.prepare import run_setup, tokenizer
from launcher.prepare.prepared_samples import PreparedSamples

_WARM_UP = 5


class _Samples(Dataset):
    """The samples of all steps, in order."""

    def __init__(self, prepared: run_setup.PreparedRun, steps: int):
        train = prepared.recipe.train
        self._samples = PreparedSamples(prepared.prepared, "train")
        order = sample_order.order(prepared.recipe, prepared.facts)
        self._ids = np.concatenate([order.step(step, train.global_batch)[1] for step in range(steps)])
        lengths = self._samples.lengths(self._ids).reshape(steps, -1)
        self.tokens = lengths.sum(axis=1)
        self._labelled = prepared.recipe.task.kind == "sequence_classification"

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict:
        row = self._samples.rows(self._ids[index : index + 1])[0]
        sample = {"input_ids": [int(token) for token in row["input_ids"]]}
        return sample | ({"labels": int(row["label"])} if self._labelled else {})


class _Trainer(transformers.Trainer):
    """Trainer that reads the samples in their order."""

    def _get_train_sampler(self, dataset: object = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class _Clock(transformers.TrainerCallback):
    """Times at the end of each step, and the losses."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args, state, control, **_: object) -> None:
        if torch.accelerator.is_available() and len(self.ends) in (_WARM_UP - 1, state.max_steps - 1):
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())

    def on_log(self, args, state, control, logs=None, **_: object) -> None:
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))


def main(folder: str, kind: str) -> None:
    prepared = run_setup.load(Path(folder))
    recipe = prepared.recipe
    steps, optimizer = recipe.train.steps, recipe.optimizer
    samples, words = _Samples(prepared, steps), tokenizer.load(str(prepared.prepared / "tokenizer"), "tokenizer")
    torch.manual_seed(recipe.seed)
    micro = max(1, min(recipe.train.global_batch, recipe.train.max_tokens // recipe.data.max_length))
    model = getattr(transformers, plugins.task(recipe.task).auto_class).from_config(
        transformers.AutoConfig.from_pretrained(Path(folder) / "model")
    )
    collate = (
        transformers.DataCollatorForLanguageModeling(words, mlm_probability=0.15)
        if recipe.task.kind == "mlm"
        else transformers.DataCollatorWithPadding(words)
    )
    clock = _Clock()
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output_dir=output, max_steps=steps, per_device_train_batch_size=micro,
            gradient_accumulation_steps=-(-recipe.train.global_batch // micro),
            learning_rate=optimizer.lr, weight_decay=optimizer.weight_decay, max_grad_norm=optimizer.clip or 0.0,
            lr_scheduler_type="constant", optim="adamw_torch_fused", bf16=recipe.train.precision == "bf16",
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=kind == "cpu", disable_tqdm=True,
            dataloader_num_workers=0 if kind == "cpu" else 2, remove_unused_columns=False,
        )  # fmt: skip
        _Trainer(model, arguments, train_dataset=samples, data_collator=collate, callbacks=[clock]).train()
    tokens = int(samples.tokens[_WARM_UP:].sum())
    memory = torch.accelerator.max_memory_allocated() if torch.accelerator.is_available() else None
    rate = tokens / (clock.ends[-1] - clock.ends[_WARM_UP - 1])
    print(json.dumps({"tokens_per_second": rate, "losses": clock.losses, "memory": memory}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
