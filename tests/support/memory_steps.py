"""Steps of a recipe under one strategy after another, whose state is copied in memory and read back, on nodes of which
one may lose its memory."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from support import strategy_steps


def prepared(folder: Any, strategy: dict[str, Any], every: int = 1) -> Any:
    """A run of a prepared folder under another strategy, with copies in memory."""
    from launcher.config import kinds
    from launcher.prepare import run_setup

    made = run_setup.load(folder)
    chosen = kinds.module("strategies", strategy["kind"]).Config.model_validate(strategy)
    checkpoint = made.recipe.checkpoint.model_copy(update={"memory": every})
    return replace(made, recipe=made.recipe.model_copy(update={"strategy": chosen, "checkpoint": checkpoint}))


def on_node(process: Any, memory: Any, nodes: int) -> Path:
    """Let this rank be on its node, each with a memory of its own. Returns the node's memory."""
    per_node = process.world // nodes
    node = Path(memory, f"node-{process.rank // per_node}")
    node.mkdir(mode=0o700, exist_ok=True)
    os.environ["LAUNCHER_MEMORY"] = str(node)
    return node


def wipe(process: Any, memory: Any, nodes: list[int]) -> None:
    """Take their memory from some nodes."""
    process.barrier()
    if process.rank == 0:
        for node in nodes:
            for folder in Path(memory, f"node-{node}").iterdir():
                shutil.rmtree(folder)
    process.barrier()


def round_trip(process: Any, folder: Any, memory: Any, strategy: dict[str, Any], nodes: int) -> dict[str, Any]:
    """Three steps, a copy of each of the last two, and two steps more; then these again from the copy, where each node
    has its memory, and where the first has lost it."""
    from launcher.train import loop, memory_restore

    on_node(process, memory, nodes)
    made = prepared(folder, strategy)
    copies, found = memory_restore.begin(made, process, made.resume.step if made.resume else 0)
    assert copies is not None and found is None
    run = strategy_steps.build(process, folder, strategy)
    strategy_steps.take(run, 1)
    for _ in range(2):
        strategy_steps.take(run, 1)
        step = run.progress.step
        run.progress.evaluation, run.progress.history = {"eval/loss": 1.0, "step": step}, [(step, 1.0)]
        copies.copy(run.engine.state_dict(), loop.checkpoint_state(run))
    copies.wait()
    ahead = strategy_steps.take(run, 2)
    final = strategy_steps.held(run.engine.state_dict())
    told = {"same": [], "steps": []}
    for lost in [[], [0]] if nodes > 1 else [[]]:
        wipe(process, memory, lost)
        copies, found = memory_restore.begin(made, process, made.resume.step if made.resume else 0)
        told["steps"].append(found and found.step)
        again = strategy_steps.build(process, folder, strategy, resume=found)
        assert again.saver.step == -1  # a stop would save this step, with its evaluation
        assert loop.checkpoint_state(again)["evaluation"] == {"eval/loss": 1.0, "step": found.step}
        records = strategy_steps.take(again, 2)
        timeless = [{k: v for k, v in r.items() if k not in ("seconds", "waited")} for r in (*ahead, *records)]
        told["same"].append(timeless[:2] == timeless[2:] and strategy_steps.held(again.engine.state_dict()) == final)
    copies.remove()
    return told


def round_trips(process: Any, folder: Any, memory: Any, cases: Any, nodes: int) -> list[dict[str, Any]]:
    told = []
    for strategy in cases:
        try:
            told.append(round_trip(process, folder, memory, strategy, nodes))
        except BaseException as error:
            error.add_note(f"under {strategy}")
            raise
    return told


def damages(process: Any, folder: Any, memory: Any, damage: str) -> int | None:
    """The step of the copy that a start finds after copies of steps 2 and 3, and some damage, or a change on disk."""
    from launcher.storage import roll_backs
    from launcher.storage.run_files import RollBack
    from launcher.train import loop, memory_restore

    node = on_node(process, memory, 1)
    made = prepared(folder, {"kind": "ddp"})
    copies, _ = memory_restore.begin(made, process, made.resume.step if made.resume else 0)
    assert copies is not None
    run = strategy_steps.build(process, folder, {"kind": "ddp"})
    strategy_steps.take(run, 1)
    for _ in range(2):
        strategy_steps.take(run, 1)
        saving = 3 if damage == "a lost checkpoint to keep" and run.progress.step == 3 else 0
        copies.copy(run.engine.state_dict(), {**loop.checkpoint_state(run), "saving": saving})
    process.barrier()
    newest = copies.folder.slot_but(1, 2)
    if process.rank == 0:
        if damage.startswith("a bit"):
            _flip(newest.file)
        if damage == "a bit of each":
            _flip(copies.folder.slot_but(0, 3).file)
        if damage == "no mark":
            newest.invalidate()
        if damage == "half a mark":
            newest.mark.write_text(newest.mark.read_text()[:-9])
        if damage == "no file":
            newest.file.unlink()
        if damage == "the run made anew":
            Path(folder, "memory.id").unlink()
        if damage == "step 3 left out":
            roll_backs.add(run.folder, RollBack(step=3, first=3, loss=9.0, grad_norm=9.0))
    if damage == "another strategy":
        made = prepared(folder, {"kind": "fsdp"})
    if damage == "other data":
        made = replace(made, facts=made.facts.model_copy(update={"digest": "f" * 32}))
    if damage == "a lost checkpoint to keep":
        kept = made.recipe.checkpoint.model_copy(update={"keep_every": 3})
        made = replace(made, recipe=made.recipe.model_copy(update={"checkpoint": kept}))
    process.barrier()
    again, found = memory_restore.begin(made, process, made.resume.step if made.resume else 0)
    run.folder.roll_backs.unlink(missing_ok=True)
    left = sorted(file.name for file in node.rglob("*.json") if file.name != "owner.json")
    process.barrier()
    if again is not None:
        assert left == ([] if found is None else [f"rank-0000{rank}.{_slot(found)}.json" for rank in (0, 1)])
        again.remove()
        assert process.rank == 0 or not copies.folder.path.exists()
    return found and found.step


def _slot(found: Any) -> str:
    return found.files[0].name.split(".")[1]


def _flip(file: Path) -> None:
    with file.open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        last = content.read(1)[0]
        content.seek(-1, os.SEEK_END)
        content.write(bytes([last ^ 1]))


def failures(process: Any, folder: Any, memory: Any) -> dict[str, Any]:
    """What is left where the third copy fails on one of two nodes, and whether copies are due afterwards."""
    from launcher.train import loop, memory_restore

    on_node(process, memory, 2)
    strategy = {"kind": "fsdp"}
    made = prepared(folder, strategy)
    copies, _ = memory_restore.begin(made, process, 0)
    assert copies is not None
    run, told = strategy_steps.build(process, folder, strategy), dict[str, Any](due=[])
    for number in range(1, 5):
        strategy_steps.take(run, 1)
        if number == 3 and process.rank == 1:
            _fail(copies)
        copies.copy(run.engine.state_dict(), loop.checkpoint_state(run))
        told["due"].append(copies.due(number))
    copies.wait()
    found = memory_restore.begin(made, process, 0)[1]
    told["found"] = found and found.step
    copies.remove()
    return told


def _fail(copies: Any) -> None:
    def write(*arguments: Any) -> None:
        raise OSError(28, os.strerror(28))

    copies._write = write


def too_small(process: Any, folder: Any, memory: Any) -> tuple[bool, bool]:
    """Whether copies are due before and after the first one, in a memory of some KiB."""
    from launcher.train import loop, memory_restore

    os.environ["LAUNCHER_MEMORY"] = str(memory)
    copies, _ = memory_restore.begin(prepared(folder, {"kind": "ddp"}), process, 0)
    assert copies is not None
    run = strategy_steps.build(process, folder, {"kind": "ddp"})
    before = copies.due(1)
    strategy_steps.take(run, 1)
    copies.copy(run.engine.state_dict(), loop.checkpoint_state(run))
    strategy_steps.take(run, 1)
    return before, copies.due(2)
