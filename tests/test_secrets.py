"""A secret of the environment reaches the ranks, and nothing that a run writes, prints or submits."""

import hashlib
import json
import os
import random
import zlib
from pathlib import Path

import pytest
import support
from support import wandb_file

NAMES = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "PLAINLY_NAMED")
SINK = '''"""A sink that writes a sum of what the rank has in its environment, and fails at the end."""
import hashlib, json, os
from pathlib import Path
from launcher import sinks
from launcher.config.types import Plugin

NAMES = {names}

class Config(Plugin):
    kind: str
    fails: bool = False

class Sink(sinks.Sink):
    def __init__(self, config, about):
        self.config = config
        sums = {{name: hashlib.sha256(os.environ.get(name, "").encode()).hexdigest() for name in NAMES}}
        Path("seen.json").write_text(json.dumps(sums))

    def write(self, record):
        if self.config.fails and record["step"] > 2:
            raise RuntimeError("the disk is on fire")

    def close(self, finished):
        pass
'''


@pytest.fixture
def canaries(workspace, monkeypatch):
    """Secrets of many names, in the environment and in the profile's `env_from`."""
    draw = random.Random(os.getpid())
    values = {name: "".join(draw.choices("0123456789abcdef", k=40)) for name in NAMES}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    support.plugin("seeing", SINK.format(names=NAMES))
    support.write({"name": "mine", "env": {"NCCL_DEBUG": "WARN"}, "env_from": list(NAMES)}, "mine.yaml")
    return values


def contents(folder: Path) -> dict[str, bytes]:
    """Every byte below a folder, and what wandb's records hold."""
    found = support.tree(folder)
    for file in folder.rglob("*.wandb"):
        found[f"{file} records"] = "\n".join(map(str, wandb_file.records(file))).encode()
    for name, content in list(found.items()):
        try:
            found[f"{name} unpacked"] = zlib.decompressobj(wbits=47).decompress(content)
        except zlib.error:
            continue
    return found


def leaks(canaries: dict[str, str], found: dict[str, bytes]) -> list[str]:
    return [
        f"{name} in {file}"
        for file, text in found.items()
        for name, value in canaries.items()
        if value.encode() in text
    ]


def sums(canaries: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in canaries.items()}


SHORT = [("elastic", False), ("torchrun", True)]
LONG = [pytest.param(via, not fails, marks=pytest.mark.soak) for via, fails in SHORT]


@pytest.mark.parametrize(("via", "fails"), [*SHORT, *LONG])
def test_a_run_shows_its_ranks_the_secrets_and_nobody_else(canaries, via, fails):
    """With wandb, whose own files are searched too; only a real run shows what libraries and tracebacks write."""
    sinks = ["console", "jsonl", {"kind": "wandb", "mode": "offline"}, {"kind": "own.seeing", "fails": fails}]
    support.write(support.small(sinks=sinks))
    words = ["run", "recipe.yaml", "--cluster", "mine.yaml", "--ranks", 2, "--via", via]
    done = support.launcher("--verbose", *words, code=1 if fails else 0)
    assert json.loads(Path("seen.json").read_text()) == sums(canaries)
    found = contents(Path("runs")) | {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    assert any(name.endswith(".wandb") for name in found) and len(found) > 15
    assert leaks(canaries, found) == []
    assert "the disk is on fire" in done.stderr or not fails


def test_the_search_finds_what_a_run_would_leak(canaries):
    (Path("runs/x")).mkdir(parents=True)
    Path("runs/x/a").write_text(f"- {canaries['HF_TOKEN']} -")
    Path("runs/x/b").write_bytes(zlib.compress(canaries["db_password"].encode()))
    assert leaks(canaries, contents(Path("runs"))) == ["HF_TOKEN in runs/x/a", "db_password in runs/x/b unpacked"]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_variable_that_is_not_set_is_one_line_before_anything_starts(canaries, monkeypatch, command):
    monkeypatch.delenv("HF_TOKEN")
    support.write(support.small())
    done = support.launcher(command, "recipe.yaml", "--cluster", "mine.yaml", code=2)
    advice = "export it before this command, or take it out"
    assert done.stderr.splitlines() == [f"mine.yaml:2: env_from: HF_TOKEN is not set here ({advice})"]
    assert not Path("runs").exists()


def test_a_batch_script_and_its_command_hold_names_alone(canaries):
    """As a dry run prints it; tests/slurm runs it."""
    profile = {
        "name": "q", "kind": "slurm", "nodes": 1, "devices_per_node": 1, "device": "cpu", "memory_per_device": 4,
        "env_from": list(NAMES), "slurm": {"time": 10, "requeue": "chain"},
    }  # fmt: skip
    support.write(profile, "q.yaml")
    support.write(support.small())
    done = support.launcher("submit", "recipe.yaml", "--cluster", "q.yaml", "--dry-run")
    assert "sbatch --parsable --export=ALL --dependency" in done.stdout
    assert leaks(canaries, {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}) == []
    assert not Path("runs").exists()
