"""Training beside the peers: the same model, weights, samples, global batch, precision, optimiser and steps.

All jobs stay alive and take their steps in turns. The first steps have no dropout, so that losses can be compared step
by step: the launcher takes them in a run of its own, the peers before their first turn.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _ceiling, _option_types
from benchmarks._peer import IGNORE, PeerJob
from benchmarks._turns import Job, environment
from benchmarks.pairs import Comparison, Measurement, Side, Unavailable, alternate

if TYPE_CHECKING:
    from launcher.config.load import Loaded
    from launcher.config.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = {"trainer": "Trainer", "accelerate": "accelerate", "torch": "torch DDP"}
"""Names of the peers in tables."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ROUNDING = 2**-8
"""Relative rounding of bf16, within which the losses of two sides have to agree."""


@dataclass(frozen=True)
class Work:
    """Something to train. `recipe`: lines of a recipe without `model`, `name` and `sinks`. `model`: the same recipe's
    model, from which the initial weights are drawn. `dropout`: rate of the timed steps. `unit`: tokens/s or samples/s.
    `turn`: steps of a turn. `dry_steps`: first steps, without dropout. `ceiling_seconds`: of each of two measurements
    of matrix products; 0: there are none."""

    title: str
    recipe: str
    model: str
    dropout: float
    unit: str = "tokens/s"
    ranks: int = 2
    threads: int = 1
    turn: int = 2
    dry_steps: int = 3
    ceiling_seconds: float = 1.0


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all benchmarks of training."""
    parser.add_argument(
        "--peers", type=_option_types.names(PEERS), default=",".join(PEERS), metavar="NAMES",
        help=f"of {', '.join(PEERS)}",
    )  # fmt: skip
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="threads of a rank (default: 1)")
    parser.add_argument("--turn", type=int, default=2, metavar="STEPS", help="steps of a turn (default: 2)")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument(
        "--keys", default="", metavar="KEYS", help="more keys of `train` for the launcher: `compile: true`"
    )


def measure(work: Work, peers: Sequence[str], pairs: int, folder: Path) -> Comparison:
    """Train in turns, and return the comparison. `peers`: keys of `PEERS`; `folder`: the current one, empty."""
    warm_up = 1
    steps = work.dry_steps + (warm_up + pairs) * work.turn
    shared = Shared.of(work, folder, steps)
    jobs = {
        "launcher": ours(work, folder, folder / "launcher", work.dropout),
        **{PEERS[kind]: peer(work, kind, shared, folder / kind, steps) for kind in peers},
    }
    try:
        for job in jobs.values():
            job.start()
        losses = {"launcher": _dry_losses(work, folder)}
        for name in list(jobs)[1:]:
            losses[name] = shared.losses(jobs[name].take(work.dry_steps).lines)
        jobs["launcher"].take(work.dry_steps)  # so that all sides measure the same steps
        ceiling = [_ceil(work)]
        sides = [Side(name, _Turns(work, job, shared, losses[name])) for name, job in jobs.items()]
        measured = alternate(work.title, work.unit, sides, pairs, warm_up=warm_up)
        ceiling.append(_ceil(work))
    finally:
        for job in jobs.values():
            job.stop()
    measured = replace(measured, notes=[agreement(measured)])
    return _with_ceiling(measured, sum(ceiling) / len(ceiling)) if work.ceiling_seconds else measured


def agreement(measured: Comparison) -> str:
    """Return a line that says whether the peers learn the same as the launcher."""
    differences = {peer: measured.loss_difference(peer) for peer in measured.peers}
    others = [peer for peer, difference in differences.items() if difference is None or difference > ROUNDING]
    if others:
        return (
            f"LOSSES DIFFER by more than the rounding of bf16, so that these ratios do not count: {', '.join(others)}"
        )
    return "the losses of all sides agree within the rounding of bf16 (2^-8)"


@dataclass
class _Turns:
    """Takes a turn of a job. `losses`: of the first steps, to compare."""

    work: Work
    job: Job
    shared: "Shared"
    losses: Mapping[int, float]

    def __call__(self) -> Measurement:
        first = self.job.steps
        turn = self.job.take(self.work.turn)
        steps = range(first, first + self.work.turn)
        tokens = sum(self.shared.tokens[step] for step in steps)
        amount = tokens if self.work.unit == "tokens/s" else self.shared.global_batch * self.work.turn
        fills = [line["fill"] for lines in turn.lines for line in lines]
        figures = {"fill": sum(fills) / len(fills)}
        if self.shared.operations is not None:
            figures["GFLOP/s"] = sum(self.shared.operations[step] for step in steps) / turn.seconds / 1e9
        return Measurement(amount / turn.seconds, figures, self.losses)


@dataclass(frozen=True)
class Shared:
    """What all sides have. `model`: folder of the initial weights; `data`: file of the samples. By step: `tokens`, the
    labels `weights` of each rank's share of the peers, and the model's `operations` (None: not known)."""

    model: Path
    data: Path
    auto_class: str
    by_token: bool
    global_batch: int
    tokens: Sequence[int]
    weights: Sequence[Sequence[int]]
    operations: Sequence[float] | None
    recipe: "Recipe"

    @classmethod
    def of(cls, work: Work, folder: Path, steps: int) -> "Shared":
        """Prepare the data, and write the initial weights and the samples of all steps."""
        import numpy as np
        import torch

        from launcher.config import plugins
        from launcher.contract.random import Draw, Stream
        from launcher.plan import model_requirements, model_spec, sample_order
        from launcher.plan.run_estimates import training_operations
        from launcher.prepare import run_setup, tokenizer
        from launcher.prepare.prepared_samples import PreparedSamples

        loaded = _recipe(work, folder, "init", work.model)
        recipe = loaded.value
        prepared, facts = run_setup.prepare(loaded)
        task = plugins.task(recipe.task)(recipe.task, facts)
        requirements = model_requirements.of(recipe, facts)
        torch.manual_seed(recipe.seed)
        model, _ = plugins.model(recipe.model).build(requirements)
        model.save_pretrained(folder / "init")
        words = tokenizer.load(str(prepared / "tokenizer"), "tokenizer")
        words.save_pretrained(folder / "init")
        order, samples = sample_order.order(recipe, facts), PreparedSamples(prepared, "train")
        batch = recipe.train.global_batch
        if batch % work.ranks:
            raise Unavailable(f"{work.ranks} ranks do not divide the global batch of {batch}")
        drawn = []
        for step in range(steps):
            epochs, ids = order.step(step, batch)
            drawn += task.samples(samples.rows(ids), epochs.tolist(), ids.tolist(), Draw(recipe.seed, Stream.MASK, 0.0))
        by_token = recipe.task.kind == "mlm"
        lengths = np.array([len(sample["input_ids"]) for sample in drawn])
        labels = [sample["labels"] for sample in drawn]
        np.savez(
            folder / "samples.npz", ids=np.concatenate([sample["input_ids"] for sample in drawn]), lengths=lengths,
            labels=np.concatenate(labels),
        )  # fmt: skip
        by_step = lengths.reshape(steps, batch)
        weights = np.array([np.count_nonzero(label != IGNORE) for label in labels]).reshape(steps, work.ranks, -1)
        shape = model_spec.count(recipe, requirements)
        operations = [
            training_operations(
                shape, float(own.sum()), float((own**2).sum()), batch * task.output_size(round(own.mean()))
            )
            for own in by_step
        ]
        return cls(
            folder / "init", folder / "samples.npz", task.auto_class, by_token, batch, by_step.sum(axis=1).tolist(),
            weights.sum(axis=2).tolist(), [one for one in operations if one is not None] or None, recipe,
        )  # fmt: skip

    def losses(self, lines: Sequence[Sequence[Mapping[str, float]]]) -> dict[int, float]:
        """Return the loss of each step: the mean over the labels of all ranks. lines: by rank and step."""
        found = {}
        for of_ranks in zip(*lines, strict=True):
            step = int(of_ranks[0]["step"])
            weights = self.weights[step - 1]
            total = sum(line["loss"] * weight for line, weight in zip(of_ranks, weights, strict=True))
            found[step] = total / sum(weights)
        return found


def _recipe(work: Work, folder: Path, name: str, model: str, *more: str) -> "Loaded[Recipe]":
    from launcher.config import load

    text = "\n".join([f"name: {name}", "seed: 17", f"model: {model}", work.recipe, *more])
    file = folder / f"{name}.yaml"
    file.write_text(text + "\n", encoding="utf-8")
    return load.recipe(str(file), [])


def _command(work: Work, file: Path) -> list[str]:
    return [sys.executable, "-m", "launcher", "run", str(file), "--ranks", str(work.ranks)]


def _pretrained(folder: Path, dropout: float) -> str:
    return f"{{kind: pretrained, name: {folder / 'init'}, dropout: {dropout}}}"


def ours(work: Work, folder: Path, own: Path, dropout: float) -> Job:
    """Return the launcher's job. `folder`: with the initial weights; `own`: the job's, to be made."""
    own.mkdir()
    sinks = f"sinks: [jsonl, {{kind: benchmarks._turns_sink, folder: {own}}}]"
    _recipe(work, folder, own.name, _pretrained(folder, dropout), sinks)
    command = _command(work, folder / f"{own.name}.yaml")
    return Job("launcher", own, command, 1, environment(REPOSITORY, work.threads))


def _dry_losses(work: Work, folder: Path) -> dict[int, float]:
    """Run the launcher without dropout, and return the losses of its steps."""
    _recipe(work, folder, "dry", _pretrained(folder, 0.0), "sinks: [jsonl]")
    command = [*_command(work, folder / "dry.yaml"), f"train.steps={work.dry_steps}"]
    ended = subprocess.run(
        command, cwd=folder, env=environment(REPOSITORY, work.threads), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"launcher run has ended with {ended.returncode}\n{ended.stderr}")
    records = map(json.loads, (folder / "runs/dry/metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def peer(work: Work, kind: str, shared: Shared, own: Path, steps: int, starter: Sequence[str] = TORCHRUN) -> Job:
    """Return a peer's job. `own`: its folder, to be made. `starter`: arguments of Python that start the ranks, before
    their number."""
    own.mkdir()
    train, optimizer = shared.recipe.train, shared.recipe.optimizer
    job = PeerJob(
        kind, str(own), str(shared.model), shared.auto_class, str(shared.data), train.global_batch // work.ranks, steps,
        work.dry_steps, work.dropout, optimizer.lr, optimizer.weight_decay, optimizer.clip or 0.0,
        train.precision == "bf16", shared.by_token,
    )  # fmt: skip
    file = own / "job.json"
    file.write_text(json.dumps(asdict(job)), encoding="utf-8")
    command = [sys.executable, *starter, str(work.ranks), "-m", "benchmarks._peer", str(file)]
    return Job(PEERS[kind], own, command, work.ranks, environment(REPOSITORY, work.threads))


def _ceil(work: Work) -> float:
    if not work.ceiling_seconds:
        return 0.0
    own = environment(REPOSITORY, work.threads)
    return _ceiling.measure(work.ranks, work.threads, own, seconds=work.ceiling_seconds) / 1e9


def _with_ceiling(measured: Comparison, ceiling: float) -> Comparison:
    """Return the comparison with each side's share of the ceiling, in GFLOP/s."""

    def complete(one: Measurement) -> Measurement:
        if "GFLOP/s" not in one.figures:
            return one
        return replace(one, figures={**one.figures, "% ceiling": 100 * one.figures["GFLOP/s"] / ceiling})

    sides = {side: [complete(one) for one in taken] for side, taken in measured.measurements.items()}
    note = f"ceiling of bf16 matrix products, all threads of all ranks at once: {ceiling:,.0f} GFLOP/s"
    return replace(measured, measurements=sides, notes=[*measured.notes, note])
