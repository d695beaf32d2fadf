"""The memory of an export, beside its largest file of weights and the whole model.

A BERT of 110 million random parameters with its optimiser's moments, saved by one rank and split over two, is exported
in files of 100 MiB and whole.
"""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pairs import Comparison
from launcher.config import load
from launcher.config.tokenizer import TrainTokenizer
from launcher.plan.facts import Facts
from launcher.storage.run_dir import RunDir

LARGE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VOCABULARY, MIB = 30_522, 2**20


def make(path: Path, size: dict[str, int], ranks: int) -> None:
    """A run folder with one checkpoint, saved without training."""
    from launcher.prepare import tokenizer

    folder = RunDir(path)
    folder.checkpoints.mkdir(parents=True)
    recipe = path / "short.yaml"
    keys = ", ".join(f"{key}: {value}" for key, value in size.items())
    recipe.write_text(
        f"name: {path.name}\nmodel: {{kind: config, type: bert, {keys}}}\ntokenizer: {{kind: train, vocab_size: 60}}\n"
        "data: {train: {kind: text, path: none.txt}}\ntask: {kind: mlm}\ntrain: {global_batch: 1, steps: 1}\n"
        "optimizer: {kind: adamw, lr: 1.0e-3}\n",
        encoding="utf-8",
    )
    load.dump(load.recipe(recipe).value, folder.recipe)
    facts = Facts(
        digest="", vocab_size=VOCABULARY, pad_token_id=0, mask_token_id=0, special_ids=[], labels=[], longest=1,
        samples={"train": 1}, tokens={"train": 1}, baseline={},
    )  # fmt: skip
    folder.facts.write_text(facts.model_dump_json(), encoding="utf-8")
    tokenizer.train(TrainTokenizer(vocab_size=60), lambda: ["some words"]).save_pretrained(folder.tokenizer)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as store:
        children = [context.Process(target=save, args=(path, size, rank, ranks, store)) for rank in range(ranks)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0


def save(path: Path, size: dict[str, int], rank: int, ranks: int, store: str) -> None:
    """One rank's share of a checkpoint: its rows of each parameter and of both moments."""
    import torch
    import torch.distributed as dist
    import transformers
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from launcher.distributed import process_group
    from launcher.train import checkpoint

    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=VOCABULARY, **size))
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors |= {f"optimizer.{name}.{moment}": torch.zeros_like(p) for name, p in model.named_parameters()}
    at = process_group.connect(
        process_group.RankInfo(rank, ranks, rank, ranks), "cpu", dist.FileStore(f"{store}/store", ranks)
    )
    if ranks > 1:
        mesh = init_device_mesh("cpu", (ranks,))
        tensors = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in tensors.items()}
    if rank == 0:
        model.config.save_pretrained(path / "model")
    state = {"step": 1, "samples": 1, "tokens": 1, "evaluation": {}}
    checkpoint.save(RunDir(path), tensors, state, 1, at)
    at.close()


def status(name: str) -> int:
    """Bytes, from the kernel's account of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def export_in(small: str, large: str, to: str, shard_size: str) -> None:
    """In a process of its own. The small export before it has everything imported."""
    from rich.console import Console

    from launcher.tools.export.export import export

    export(small, "latest", Path(f"{to}-small"), "1GiB", Console(stderr=True))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begin = status("VmRSS"), time.perf_counter()
    export(large, "latest", Path(to), shard_size, Console(stderr=True))
    seconds, above = time.perf_counter() - begin, status("VmHWM") - before
    sizes = [file.stat().st_size for file in Path(to).glob("*.safetensors")]
    print(
        f"{shard_size:>9} {len(sizes):>6} {max(sizes) / MIB:>11.1f} {sum(sizes) / MIB:>10.1f} {before / MIB:>12.1f} "
        f"{above / MIB:>10.1f} {above / max(sizes):>9.2f} {seconds:>8.1f}"
    )


def options(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def measure(options: argparse.Namespace) -> list[Comparison]:
    print(
        f"{'ranks':>5} {'--shard':>9} {'files':>6} {'largest MiB':>11} {'model MiB':>10} {'imported MiB':>12} "
        f"{'above MiB':>10} {'x largest':>9} {'seconds':>8}"
    )
    with tempfile.TemporaryDirectory() as here:
        make(Path(here) / "small", SMALL, 1)
        for ranks in (1, 2):
            make(Path(here) / f"large{ranks}", LARGE, ranks)
            for size in ("100MiB", "1GiB"):
                paths = [f"{here}/small", f"{here}/large{ranks}", f"{here}/{ranks}-{size}"]
                print(f"{ranks:>5}", end=" ", flush=True)
                subprocess.run([sys.executable, "-m", "benchmarks.export", *paths, size], check=True)
    return []


if __name__ == "__main__":
    export_in(*sys.argv[1:])
