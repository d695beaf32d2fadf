"""Damage to the files of a run, by bytes and by structure, and all that reads them, in a process of its own: called as
`python -m support.damaged_files FOLDER SEED CASES READER...`, with a folder that holds a finished run and a bundle."""

import io
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from launcher.config import strict_json
from launcher.config.errors import UserError
from launcher.config.paths import COMPLETE
from launcher.config.recipe import Recipe
from launcher.plan import facts, plan
from launcher.prepare import bundle
from launcher.sinks import RunInfo, wandb
from launcher.storage import goodput, job_log, lease_file, ledger, sound_checkpoints
from launcher.storage.run_dir import RunDir
from launcher.tools import compare, failure_costs, seeds
from launcher.tools.export import model_card
from launcher.tools.status import run_events, run_status, run_time, status

RUN = RunDir(Path("runs/run"))
BUNDLE = Path("bundle")
LEASE = ".writer.lease-000001"
INFO = RunInfo("run", RUN.path, {}, 1, 0, 0.0, 0, "", [])
MEMORY = 500 << 20
"""Maximum address space of the process, in bytes."""
PATIENCE = 60
"""Maximum seconds of one case, on a machine under load."""
EVIL: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.5, -0.5, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", "x", "7", "-1", "1e9", "\0", "\x1b[2J\x1b]0;x\x07", "[/]", "[red]x",
    "../..", "/etc/passwd", ".", "-f", "--help", "a\nb", "\ud800", "é", "x" * 5000, [], {}, [[]], [None], [1, 2], ["x"],
    {"x": 1}, {"": []}, [[[[{}]]]], {"kind": "x"},
]  # fmt: skip
RAW = [
    b"[" * 5000, b'{"a":' * 5000, b"[" * 100_000 + b"]" * 100_000, b'{"step": 1, "step": 2}', b"NaN", b"1e999",
    b"9" * 5000, b"\xff\xfe", b"\0" * 100, b"", b"\xef\xbb\xbf{}", b"// x", b"'x'", b'"\\ud800"', b'"\\u0000"',
    b"x" * 100_000,
    b"[]," * 400_000, b'"" :' * 1000,
]  # fmt: skip


def listed() -> None:
    """The table of runs, and the details of one."""
    queue = run_events.JobSchedulers()
    queue.trouble = {"slurm": "Slurm does not answer"}
    statuses = run_status.read_statuses([RUN], queue)
    out = io.StringIO()
    console = Console(file=out, width=100)
    console.print(status.table(statuses))
    for one in statuses:
        status.print_details(one, console)
    json.dumps([status.asdict(one) for one in statuses]).encode()
    "\n".join([out.getvalue(), *(problem for one in statuses for problem in one.damaged)]).encode()


def compared() -> None:
    out = io.StringIO()
    compare.compare([str(RUN.path)], Console(file=out, width=100))
    out.getvalue().encode()


def bundled() -> None:
    bundle.recipe_of(BUNDLE)
    os.environ["LAUNCHER_CACHE"] = str(BUNDLE)
    bundle.identity(RECIPE)


def read_lease() -> None:
    if (held := lease_file.held(RUN.path, ".writer")) is None:
        raise UserError("it is nobody's")
    str(held[1]), held[1].dead(), lease_file.Holder.this().replaces(held[1])


def progress() -> None:
    state = RUN.whole()[-1].state
    {**state}["step"] + len(state.get("culprit", "")) + sum(step for step, _ in state.get("history", []))
    newest = RUN.whole()[-1]
    model_card.metrics_section(newest, model_card.checkpoint_metrics(newest))


def newest_file(name: str) -> Path:
    return RUN.whole()[-1].path / name


def counted() -> None:
    for saved in (None, 0, 10):
        found = goodput.account(ledger.read(RUN), saved=saved)
        if found is not None:
            assert 0 <= found.goodput <= 1
            assert min(found.parts.values()) >= 0


def seconds_shown() -> None:
    (one,) = run_status.read_statuses([RUN], run_events.JobSchedulers())
    out = io.StringIO()
    run_time.print_seconds(RUN, one, Console(file=out, width=100))
    json.dumps(run_time.as_json(RUN, one), allow_nan=False).encode()
    out.getvalue().encode()


Read = Callable[[], object]
READERS: dict[str, tuple[Callable[[], Path], list[Read]]] = {
    "metrics": (
        lambda: RUN.metrics,
        [
            lambda: list(RUN.lines()),
            lambda: seeds.last_evaluation(RUN),
            RUN.check_files,
            RUN.mend_metrics,
            listed,
            compared,
        ],
    ),
    "jobs": (
        lambda: RUN.job_log,
        [lambda: job_log.story(job_log.read(RUN)), lambda: run_events.newest_job(RUN), listed],
    ),
    "ledger": (lambda: RUN.ledger, [counted, lambda: failure_costs.measure(ledger.read(RUN)), seconds_shown]),
    "plan": (lambda: RUN.plan, [lambda: strict_json.read(RUN.plan, plan.Plan, "x").equation, listed]),
    "facts": (lambda: RUN.facts, [lambda: facts.read(RUN.path), lambda: facts.of_run(RUN.path), compared]),
    "state": (
        lambda: newest_file("state.json"),
        [
            progress,
            lambda: RUN.saved("best"),
            RUN.check_files,
            listed,
            compared,
            lambda: sound_checkpoints.resumable(RUN, None),
            lambda: sound_checkpoints.resumable(RUN, 1),
        ],
    ),
    "complete": (
        lambda: newest_file(COMPLETE),
        [
            lambda: [saved.verify() for saved in RUN.whole()],
            lambda: [saved.verify_share(1, 3) for saved in RUN.whole()],
            lambda: [saved.verify_sizes() for saved in RUN.whole()],
            lambda: sound_checkpoints.verified(RUN, "latest"),
        ],
    ),
    "tensors": (
        lambda: next(RUN.whole()[-1].path.glob("*.safetensors")),
        [lambda: RUN.whole()[-1].tensors(), lambda: RUN.whole()[-1].verify()],
    ),
    "wandb": (lambda: RUN.path / "wandb.id", [lambda: wandb._id(INFO)]),
    "bundle": (lambda: BUNDLE / "bundle.json", [bundled]),
    "environment": (lambda: RUN.path / "environment.json", [lambda: model_card.software_section(RUN)]),
    "lease": (lambda: RUN.path / LEASE, [read_lease, listed]),
}
"""The readers of each file, and its path."""


def by_bytes(draw: random.Random, content: bytes) -> bytes:
    begin, end = sorted(draw.choices(range(len(content) + 1), k=2))
    end = min(end, begin + draw.choice([1, 2, 40, 10**9]))
    piece = draw.choice([
        b"", bytes(draw.choices(range(256), k=draw.choice([1, 3, 50]))), content[begin:end] * 2, draw.choice(RAW),
        bytes([content[begin % max(1, len(content))] ^ 1 << draw.randrange(8)]) if content else b"x",
    ])  # fmt: skip
    return content[:begin] + piece + content[end:]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in nodes(item, (*path, key)))]


def by_structure(draw: random.Random, content: bytes) -> bytes:
    """Replace, remove or rename one value of a line or document."""
    whole = content.startswith(b"{\n")
    lines = [content] if whole else content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    value = json.loads(lines[at])
    path = draw.choice(nodes(value))
    if not path:
        return b"".join([*lines[:at], json.dumps(draw.choice(EVIL)).encode() + b"\n", *lines[at + 1 :]])
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    match draw.randrange(6):
        case 0:
            del inner[path[-1]]
        case 1 if isinstance(inner, dict):
            inner[draw.choice(["", "x", "\x1b[31m", "[/x]", "eval/[/x]", "step", "eval/loss", "../x"])] = inner.pop(
                path[-1]
            )
        case 2:
            inner[path[-1]] = [inner[path[-1]]] * draw.choice([1, 1000])
        case _:
            inner[path[-1]] = draw.choice(EVIL)
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
    return b"".join([*lines[:at], text + b"\n", *lines[at + 1 :]])


def in_place(draw: random.Random, file: Path) -> None:
    """Put a folder, a link or a pipe in the place of the file."""
    file.unlink()
    match draw.randrange(7):
        case 0:
            file.mkdir()
        case 1:
            os.mkfifo(file)
        case 2:
            file.symlink_to(file.name)
        case 3:
            file.symlink_to("nowhere")
        case 4:
            file.symlink_to("/dev/zero")
        case 5:
            file.touch()
            os.truncate(file, 3 << 30)


def damage(draw: random.Random, file: Path, content: bytes) -> None:
    kind = draw.random()
    if kind < 0.1:
        in_place(draw, file)
        return
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        try:
            content = by_bytes(draw, content) if kind < 0.5 else by_structure(draw, content)
        except (ValueError, IndexError, KeyError, RecursionError):  # damaged already
            content = by_bytes(draw, content)
    file.write_bytes(content)


def restore(file: Path, content: bytes) -> None:
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)
    file.write_bytes(content)


def case(seed: str, file: Path, content: bytes, reads: list[Read]) -> tuple[list[str], bool]:
    """The failures of the readers in one case of damage, and whether any reader refuses the file."""
    damage(random.Random(seed), file, content)
    wrong, refused = list[str](), False
    for number, read in enumerate(reads):
        signal.alarm(PATIENCE)
        try:
            read()
        except UserError as error:
            refused = True
            if not str(error) or any(len(line) > 2000 for line in str(error).splitlines()):
                wrong.append(f"{seed}: {number}: a message of {len(str(error))} characters")
        except BaseException as error:
            trace, frames = error.__traceback__, []
            while trace:
                frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
                trace = trace.tb_next
            wrong.append(f"{seed}: {number}: {type(error).__name__}: {str(error)[:200]} ({' '.join(frames[-6:])})")
        signal.alarm(0)
    restore(file, content)
    return wrong, refused


def main(seed: str, cases: int, readers: list[str]) -> dict[str, Any]:
    """Failures and the number of refused cases, by reader."""
    files = {reader: READERS[reader][0]() for reader in readers}
    for read in (read for reader in readers for read in READERS[reader][1]):
        read()
    cell_len("\N{LATIN SMALL LETTER E WITH ACUTE}\N{CJK UNIFIED IDEOGRAPH-754C}")  # rich's table of widths, when needed
    for codec in ("utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be", "utf-32-le"):
        "".encode(codec)  # json loads them when bytes look like theirs
    before, pages = set(sys.modules), int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    out = {}
    for reader, file in files.items():
        content, reads = file.read_bytes(), READERS[reader][1]
        done = [case(f"{reader}-{seed}-{number}", file, content, reads) for number in range(cases)]
        imported = [f"imported: {name}" for name in sorted(set(sys.modules) - before)]
        out[reader] = {"wrong": [*(what for wrong, _ in done for what in wrong), *imported][:50]}
        out[reader]["refused"] = sum(refused for _, refused in done)
    return out


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    RECIPE = Recipe.model_validate(json.loads(Path("recipe.json").read_text()))
    print(json.dumps(main(sys.argv[2], int(sys.argv[3]), sys.argv[4:])))
