"""An ordinary function on real gloo ranks in one call, forked from a server that has imported torch once."""

import faulthandler
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.launch import elastic_agent

ARCHITECTURES = ("bert", "roberta", "distilbert", "modernbert")
IMPORTS = (
    "transformers.modeling_utils", "torch.distributed.fsdp", "torch.distributed.tensor.parallel", "deepspeed",
    "deepspeed.runtime.zero.muon.original_muon",  # imported by any start of it, with all of torch.compile
)  # fmt: skip
multiprocessing.set_forkserver_preload(
    [
        *elastic_agent.IMPORTS,
        *IMPORTS,
        *(f"transformers.models.{name}.modeling_{name}" for name in ARCHITECTURES),
    ]
)


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """function(process, *arguments) on each rank; their results in the order of ranks. Raises what a rank raised."""
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        answers = [context.Pipe(duplex=False) for _ in range(world)]
        children = [
            context.Process(target=_child, args=(rank, world, f"{folder}/store", answer[1], function, arguments))
            for rank, answer in enumerate(answers)
        ]
        for child in children:
            child.start()
        for _, end in answers:
            end.close()
        try:
            results = [_receive(rank, ours, children[rank], Path(folder)) for rank, (ours, _) in enumerate(answers)]
        finally:
            for child in children:
                child.join(30)
                child.kill()
    return results


def _receive(rank: int, pipe: Any, child: Any, folder: Path) -> Any:
    if not pipe.poll(600):
        raise AssertionError(f"rank {rank} said nothing within 600 s")
    try:
        error, value = pipe.recv()
    except EOFError:
        child.join(30)
        crash = _crash(folder, rank)
        told = crash.read_text() if crash.is_file() else ""
        raise AssertionError(f"rank {rank} died with exit code {child.exitcode}\n{told}") from None
    if error:
        raise AssertionError(f"rank {rank}:\n{error}")
    return value


def _crash(folder: Path, rank: int) -> Path:
    """Where a rank's stacks are written when a signal kills it that Python can answer, such as SIGSEGV."""
    return folder / f"crash-{rank}"


def _child(rank: int, world: int, store: str, answer: Any, function: Any, arguments: Any) -> None:
    import torch.distributed as dist

    from launcher.distributed import process_group

    stacks = _crash(Path(store).parent, rank).open("w")
    faulthandler.enable(stacks)
    try:
        at = process_group.connect(
            process_group.RankInfo(rank, world, rank, world), "cpu", dist.FileStore(store, world)
        )
        value = function(at, *arguments)
        answer.send((None, value))
        at.close()
    except BaseException:
        answer.send((traceback.format_exc(), None))
        raise


def ready(recipe: str, *overrides: str, ranks: int = 1) -> Path:
    """The run folder of a recipe, planned, prepared and written, as ranks find it."""
    from launcher.config import load
    from launcher.prepare import run_setup

    loaded = load.recipe(recipe, overrides)
    return run_setup.create(run_setup.validate(loaded, load.cluster("local").value, ranks)).folder.path


def built(process: Any, folder: Path, max_tokens: int | None = None) -> Any:
    """A rank's Run of a folder, with another budget where given."""
    from dataclasses import replace

    from launcher import rank_training
    from launcher.distributed.stop_requests import StopMonitor
    from launcher.prepare import run_setup

    made = run_setup.load(folder)
    train = made.recipe.train.model_copy(update={"max_tokens": max_tokens})
    made = replace(made, recipe=made.recipe.model_copy(update={"train": train}))
    return rank_training.build(made, process, StopMonitor(), made.resume, workers=0)[0]
