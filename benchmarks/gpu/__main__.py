"""Show on one accelerator what the tests on a CPU cannot: `python -m benchmarks.gpu`.

Each check prints a line of JSON; together they take at most eight minutes. `--rehearse` runs all that a CPU can, with
small models; `--only` names checks. Exit code 1: a check failed. Not shown by one device: NCCL between ranks, NVLink,
and several nodes.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu import environment, exactness, harness, results, step, throughput
from benchmarks.gpu.harness import Check, Machine, Result

CHECKS = (
    Check("environment", "versions, attention kernels, plan", 20, environment.describe),
    Check("fork-server", "children of the fork server use the device", 20, environment.fork_server),
    Check("devices", "digests and losses equal those of the CPU", 45, exactness.devices),
    Check("strategies", "each strategy on one rank, resumed under ddp", 60, exactness.strategies),
    Check("kill-and-resume", "a killed run ends bitwise as an undisturbed one", 45, exactness.kill_and_resume),
    Check("two-ranks", "two ranks share the device over gloo", 40, exactness.two_ranks),
    Check("synchronizations", "synchronisations of a step, pinned copies", 20, step.synchronizations),
    Check("step-times", "step times at variable lengths", 25, step.step_times, exact=False),
    Check("throughput", "tokens/s, MFU and memory beside the Trainer", 80, throughput.beside_the_trainer, exact=False),
    Check("padding-free", "padding-free rows beside padded ones", 25, throughput.padding_free, exact=False),
    Check("too-many-tokens", "a far too large train.max_tokens", 25, results.too_many_tokens),
    Check("options", "fp16, compile, activation checkpointing", 45, exactness.options),
    Check("results", "evaluate, predict and export", 30, results.evaluate_predict_export),
)
NOT_SHOWN = ("NCCL between ranks", "NVLink and peer-to-peer copies", "several nodes")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU what a CPU can")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(check.name for check in CHECKS)}")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the lines of JSON to a file")
    parser.add_argument("--folder", type=Path, help="a working directory to keep (default: a temporary one)")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    options = parser().parse_args()
    chosen = selected(options.only)
    kind = "cpu" if options.rehearse else accelerator()
    if kind is None:
        print("no accelerator that torch can use (--rehearse runs what a CPU can)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="launcher-gpu-") as temporary:
        machine = Machine(kind, (options.folder or Path(temporary)).absolute())
        machine.folder.mkdir(parents=True, exist_ok=True)
        os.environ["LAUNCHER_CACHE"] = str(machine.folder / "cache")
        if options.here:
            return _here(options.here, machine)
        found = [_report(harness.run(check, machine), options.output) for check in chosen]
    counts = {status: sum(result.status == status for result in found) for status in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()), file=sys.stderr)
    print(f"not shown by one device: {'; '.join(NOT_SHOWN)}", file=sys.stderr)
    return int(counts["failed"] > 0)


def selected(names: str | None) -> list[Check]:
    """Return the checks of these names, separated by commas; None: all. Exits with code 2 for an unknown name."""
    if names is None:
        return list(CHECKS)
    known = {check.name: check for check in CHECKS}
    if unknown := [name for name in names.split(",") if name not in known]:
        print(f"--only {', '.join(unknown)}: no such check (there are {', '.join(known)})", file=sys.stderr)
        sys.exit(2)
    return [known[name] for name in names.split(",")]


def accelerator() -> str | None:
    """Return the type of the accelerator that torch can use; None: there is none."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def _here(name: str, machine: Machine) -> int:
    """Run one check in this process, and write its result into the machine's folder."""
    result = harness.run_here(selected(name)[0], machine)
    file = machine.folder / f"{name}.json"
    aside = file.with_suffix(".partial")
    aside.write_text(result.line(), encoding="utf-8")
    aside.rename(file)
    return 0


def _report(result: Result, output: Path | None) -> Result:
    print(result.line(), flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as lines:
            lines.write(result.line() + "\n")
    shown = dataclasses.replace(result, figures={})
    print(f"{shown.check:18} {shown.status:8} {shown.seconds:6.1f} s  {shown.reason}", file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
