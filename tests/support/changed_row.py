"""Three runs for what looks at the steps of runs: whole, killed and resharded, and one of changed data."""

import os
import shutil
import signal
from pathlib import Path

import support

STEPS = 14
SLOW = ["jsonl", {"kind": "own.slow"}]


def runs() -> None:
    """`whole`: STEPS steps on one rank. `hurt`: the same on 2 ranks, killed, on 1 rank, killed, and on 3 ranks.
    `other`: as `whole`, but one row of the data has its words in another order."""
    support.plugin("slow", support.SLOW)
    changes = {"train__steps": STEPS, "checkpoint": {"every": 3, "keep": 9}, "data__validation": None}
    support.write(support.mlm("whole", **changes), "whole.yaml")
    support.launcher("run", "whole.yaml", "--ranks", 1, timeout=600)
    support.write(support.mlm("hurt", sinks=SLOW, **changes), "hurt.yaml")
    for ranks, step in ((2, 5), (1, 9)):
        process = support.start("run", "hurt.yaml", "--ranks", ranks)
        support.wait_for_step("runs/hurt", step, process, timeout=600)
        if ranks == 2:  # while the run is there, its samples can be seen
            os.killpg(process.pid, signal.SIGSTOP)
            assert "equals the run's record" in support.launcher("seen", "runs/hurt", 2, "--limit", 1).stdout
        support.kill_group(process)
    support.launcher("run", "hurt.yaml", "--ranks", 3, timeout=600)
    shutil.copy("corpus.txt", "other.txt")
    lines = Path("other.txt").read_text().split("\n")
    lines[changed_line() - 1] = " ".join(sorted(lines[changed_line() - 1].split()))
    Path("other.txt").write_text("\n".join(lines))
    support.write(support.mlm("other", **changes, data__train__path="other.txt"), "other.yaml")
    support.launcher("run", "other.yaml", "--ranks", 1, timeout=600)


def changed_line() -> int:
    """The number of the row that differs in other.txt. Its sample does not occur in the first four steps."""
    from launcher.contract.order import Order

    lines = Path("corpus.txt").read_text().splitlines()
    early = {int(id) for step in range(4) for id in Order(len(lines), 3).step(step, 12)[1]}
    return next(n for n, line in enumerate(lines) if n not in early and 6 < len(line.split()) < 10) + 1
