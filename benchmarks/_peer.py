"""One rank of a peer: `torchrun ... -m benchmarks._peer JOB.json`.

It trains the model, from the initial weights and on the batches that the launcher has: `trainer` by the transformers
Trainer, as its examples run_mlm and run_glue do; `accelerate` by a loop with Accelerator, as run_mlm_no_trainer does;
`torch` by a plain loop with DistributedDataParallel. Batches that are masked already are read from memory, and so cost
a peer less than its own collator would.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks._turns import Gate

IGNORE = -100
Sample = dict[str, Any]


@dataclass(frozen=True)
class PeerJob:
    """A peer's job. `model`: folder of the initial weights and the tokenizer; `auto_class`: name of its class; `data`:
    file of the samples. `batch`: samples of a rank and step. `dry_steps`: first steps, which have no dropout. `mlm`:
    samples have a label for each token."""

    kind: str
    folder: str
    model: str
    auto_class: str
    data: str
    batch: int
    steps: int
    dry_steps: int
    dropout: float
    lr: float
    weight_decay: float
    clip: float
    bf16: bool
    mlm: bool


class _Samples(Dataset[Sample]):
    """The samples of all steps, in order."""

    def __init__(self, job: PeerJob):
        stored = np.load(job.data)
        self._ids, self._labels, self._ends = stored["ids"], stored["labels"], np.cumsum(stored["lengths"])
        self._by_token = job.mlm

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Sample:
        begin, end = (int(self._ends[index - 1]) if index else 0), int(self._ends[index])
        labels = self._labels[begin:end].tolist() if self._by_token else int(self._labels[index])
        return {"input_ids": self._ids[begin:end].tolist(), "labels": labels}


class _Run:
    """What all peers have. Every rank takes steps in turns."""

    def __init__(self, job: PeerJob):
        import transformers

        self.job, self.samples, self.step = job, _Samples(job), 0
        self.gate = Gate(Path(job.folder), int(os.environ["RANK"]))
        self.model = getattr(transformers, job.auto_class).from_pretrained(job.model)
        words = transformers.AutoTokenizer.from_pretrained(job.model)
        self.collate = (
            transformers.DataCollatorForTokenClassification(words)
            if job.mlm
            else transformers.DataCollatorWithPadding(words)
        )
        self.model.train()
        self._set_dropout(0.0)
        torch.manual_seed(0)

    def begin(self) -> None:
        """Wait for the first turn."""
        self.gate.wait(1)

    def end_step(self, loss: torch.Tensor, filled: float) -> None:
        """Record a step that has ended, and wait for the turn of the next one."""
        self.step += 1
        self.gate.record(self.step, float(loss), fill=filled)
        if self.step == self.job.dry_steps:
            self._set_dropout(self.job.dropout)
        self.gate.wait(self.step + 1)

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters as run_mlm_no_trainer groups them: no decay for biases and norms."""
        named, plain = list(self.model.named_parameters()), ("bias", "LayerNorm.weight", "norm.weight")
        return [
            {
                "params": [p for name, p in named if name.endswith(plain) == without],
                "weight_decay": 0.0 if without else self.job.weight_decay,
            }
            for without in (False, True)
        ]

    def _set_dropout(self, rate: float) -> None:
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate


def fill(batch: dict[str, torch.Tensor]) -> float:
    """Return the share of the positions that hold a token."""
    return float(batch["attention_mask"].float().mean()) if "attention_mask" in batch else 1.0


def trainer(run: _Run) -> None:
    import transformers
    from torch.utils.data import SequentialSampler

    class Trainer(transformers.Trainer):
        """Reads the samples in their order, and keeps the loss of the last step."""

        def _get_train_sampler(self, dataset: object = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> torch.Tensor:
            self.filled = fill(inputs)
            self.last: torch.Tensor = super().training_step(model, inputs, *rest, **more)
            return self.last

    class Turns(transformers.TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            run.begin()

        def on_step_end(self, *_: object, **__: object) -> None:
            run.end_step(made.last, made.filled)

    job = run.job
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output_dir=output, max_steps=job.steps, per_device_train_batch_size=job.batch, learning_rate=job.lr,
            weight_decay=job.weight_decay, max_grad_norm=job.clip, lr_scheduler_type="constant", bf16=job.bf16,
            optim="adamw_torch_fused", logging_steps=500, save_strategy="no", report_to=[], use_cpu=True,
            disable_tqdm=True, ddp_backend="gloo", remove_unused_columns=False,
            average_tokens_across_devices=False,  # else the loss of BERT grows with the number of ranks
        )  # fmt: skip
        made = Trainer(run.model, arguments, train_dataset=run.samples, data_collator=run.collate, callbacks=[Turns()])
        made.train()


def accelerate(run: _Run) -> None:
    from accelerate import Accelerator

    job = run.job
    accelerator = Accelerator(mixed_precision="bf16" if job.bf16 else "no", cpu=True)
    loader = DataLoader(run.samples, job.batch, collate_fn=run.collate)
    optimizer = torch.optim.AdamW(run.groups(), lr=job.lr, fused=True)
    model, optimizer, loader = accelerator.prepare(run.model, optimizer, loader)
    run.begin()
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(loss.detach(), fill(batch))


def plain(run: _Run) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    job, rank, world = run.job, dist.get_rank(), dist.get_world_size()
    firsts = range(rank * job.batch, len(run.samples), world * job.batch)
    shares = [range(first, first + job.batch) for first in firsts]
    loader = DataLoader(run.samples, batch_sampler=shares, collate_fn=run.collate)
    model, optimizer = DistributedDataParallel(run.model), torch.optim.AdamW(run.groups(), lr=job.lr, fused=True)
    run.begin()
    for batch in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=job.bf16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        optimizer.zero_grad()
        run.end_step(loss.detach(), fill(batch))


KINDS = {"trainer": trainer, "accelerate": accelerate, "torch": plain}

if __name__ == "__main__":
    description = PeerJob(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    KINDS[description.kind](_Run(description))
