"""From the SIGKILL of one of two ranks to the next step, beside torchrun with a plain script of the same BERT.

Both save every 5 steps and load the newest checkpoint after the restart. Both runs live side by side, mostly asleep,
and a rank of each is killed in turn.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks import _workplace
from benchmarks.pairs import Comparison, Side, alternate

WORDS = ("rank", "step", "batch", "loss", "model", "token", "mask", "gradient", "node", "seed", "order", "epoch")
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
SAMPLES, LENGTH, EVERY, PAUSE, LIMIT = 16, 32, 5, 0.2, 45
RECIPE = {
    "name": "ours", "seed": 3,
    "model": {"kind": "config", "type": "bert", **SIZE, "dropout": 0.1},
    "tokenizer": {"kind": "train", "vocab_size": 200},
    "data": {"train": {"kind": "text", "path": "corpus.txt", "document": "line"}, "max_length": LENGTH},
    "task": {"kind": "mlm", "samples": "documents"},
    "train": {"global_batch": SAMPLES, "steps": 100_000},
    "optimizer": {"kind": "adamw", "lr": 1.0e-3},
    "checkpoint": {"every": EVERY, "keep": 2},
    "sinks": [{"kind": "own.told"}],
}  # fmt: skip
SINK = f"""
import os, time
from pathlib import Path
from launcher import sinks
from launcher.config.types import Plugin

class Config(Plugin):
    kind: str

class Sink(sinks.Sink):
    def __init__(self, config, about):
        pass

    def write(self, record):
        with open("ours.log", "a") as file:
            file.write(f"{{os.getpid()}} {{time.monotonic()}}\\n")
        time.sleep({PAUSE})

    def close(self, finished):
        pass
"""
PLAIN = f"""
import os, time
import torch
import torch.distributed as dist
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(3)
torch.set_num_threads(1)
model = torch.nn.parallel.DistributedDataParallel(BertForMaskedLM(BertConfig(vocab_size=200, **{SIZE!r})))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
tokens, step = torch.randint(5, 200, (2000, {LENGTH})), 0
if Path("plain.pt").exists():
    saved = torch.load("plain.pt")
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    step = saved["step"]
while True:
    mine = tokens[torch.randint(2000, ({SAMPLES} // world,))]
    labels = torch.where(torch.rand(mine.shape) < 0.15, mine, -100)
    model(input_ids=mine, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    step += 1
    if rank == 0:
        with open("plain.log", "a") as file:
            file.write(f"{{os.getpid()}} {{time.monotonic()}}\\n")
        time.sleep({PAUSE})
        if step % {EVERY} == 0:
            torch.save({{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}}, "new.pt")
            state = torch.load("new.pt")
            state["model"] = {{name.removeprefix("module."): value for name, value in state["model"].items()}}
            torch.save(state, "new.pt")
            os.replace("new.pt", "plain.pt")
"""


def start(name: str, repository: Path) -> "subprocess.Popen[bytes]":
    """Start one of both, with its output in a file."""
    ours = ["-m", "launcher", "run", "recipe.yaml", "--ranks", "2", "--max-restarts", "99"]
    plain = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "99", "plain.py"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else torchrun's restarts read addresses of dead ranks
    with Path(f"{name}.out").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *(ours if name == "ours" else plain)], stdout=out, stderr=out, start_new_session=True,
            env=environment,
        )  # fmt: skip


def lines(name: str) -> list[tuple[int, float]]:
    """The process and the time of each step."""
    file = Path(f"{name}.log")
    rows = file.read_text().split("\n")[:-1] if file.exists() else []
    return [(int(row.split()[0]), float(row.split()[1])) for row in rows]


def second_rank(name: str) -> int:
    """The process id of rank 1: the other child of rank 0's parent, an agent or the server that forks ranks."""
    first = psutil.Process(lines(name)[-1][0])
    parent = first.parent()
    assert parent is not None
    return next(child.pid for child in parent.children() if child.pid != first.pid)


def restart(name: str, process: "subprocess.Popen[bytes]") -> float:
    """Kill rank 1 and wait for the next step. Returns the seconds between."""
    first = lines(name)[-1][0]
    while len([pid for pid, _ in lines(name) if pid == first]) < 2 * EVERY:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 2 * PAUSE))
    begin = time.monotonic()
    os.kill(second_rank(name), signal.SIGKILL)
    while lines(name)[-1][0] == first:
        if process.poll() is not None:
            raise SystemExit(Path(f"{name}.out").read_text())
        if time.monotonic() - begin > LIMIT:
            raise SystemExit(f"{name}: no step within {LIMIT} s\n{Path(f'{name}.out').read_text()}")
        time.sleep(0.005)
    return next(told for pid, told in lines(name) if pid not in {p for p, t in lines(name) if t < begin}) - begin


def options(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def measure(options: argparse.Namespace) -> list[Comparison]:
    repository = Path(__file__).resolve().parent.parent
    with _workplace.temporary_folder("restart", cache=True):
        draw = random.Random(0)
        texts = "".join(" ".join(draw.choices(WORDS, k=24)) + "\n" for _ in range(2000))
        Path("corpus.txt").write_text(texts)
        Path("recipe.yaml").write_text(json.dumps(RECIPE))
        Path("plain.py").write_text(PLAIN)
        Path("own").mkdir()
        Path("own/told.py").write_text(SINK)
        processes = {name: start(name, repository) for name in ("ours", "plain")}
        try:
            while not all(lines(name) for name in processes):
                time.sleep(0.1)
            sides = [
                Side("launcher", lambda: restart("ours", processes["ours"])),
                Side("torchrun", lambda: restart("plain", processes["plain"])),
            ]
            title = "from SIGKILL of a rank to the next step, 2 ranks"
            return [alternate(title, "s", sides, options.pairs, higher_is_better=False, warm_up=0)]
        finally:
            for process in processes.values():
                with contextlib.suppress(psutil.Error):
                    for one in psutil.Process(process.pid).children(recursive=True):  # torchrun's ranks have sessions
                        one.kill()
                process.kill()
                process.wait()
