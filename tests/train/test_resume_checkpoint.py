"""Damage in any file of a checkpoint is found by the ranks that would load it, and the checkpoint before it is used."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import support
import torch
from support import ranks

from launcher.config.errors import UserError
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.stop_requests import StopMonitor
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import RollBack
from launcher.train import resume_checkpoint, roll_back


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 16
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES: tuple[Callable[[Path], None], ...] = (flipped, cut, emptied, Path.unlink)
FILES = ("COMPLETE", "recipe.yaml", "shard-00001", "shard-00002", "state.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of 6 steps on two ranks, with checkpoints of steps 2, 4 and 6."""
    here = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        support.write(support.small(checkpoint={"every": 2, "keep": 3}, strategy="fsdp", train__precision="fp64"))
        support.launcher("run", "recipe.yaml", "--ranks", 2)
    return here


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RunDir(Path("runs/tiny"))


def file_of(run: RunDir, step: int, name: str) -> Path:
    (file,) = (run.checkpoints / f"step-{step:08d}").glob(f"{name}*")
    return file


def newest(process, folders):
    """What ranks find in each folder: the step, or the problems."""
    found = []
    for folder in map(RunDir, folders):
        try:
            saved = resume_checkpoint.newest(folder, [saved.path.name for saved in folder.whole()], process)
            found.append(saved and saved.step)
        except UserError as error:
            found.append(list(map(str, error.problems)))
        process.barrier()
    return found


def test_the_files_of_a_checkpoint_are_those_that_are_damaged_here(here):
    names = [re.sub("(shard-[0-9]+).*", r"\1", file.name) for file in here.whole()[-1].path.iterdir()]
    assert sorted(names) == sorted(FILES)


def test_damage_of_every_kind_in_every_file_is_found(here):
    """On two ranks, of which each reads a share of the files."""
    cases = [(name, damage) for name in FILES for damage in DAMAGES if (name, damage) != ("COMPLETE", Path.unlink)]
    folders = [Path(f"case-{i}") for i in range(len(cases))]
    for folder, (name, damage) in zip(folders, cases, strict=True):
        shutil.copytree(here.path, folder)
        damage(file_of(RunDir(folder), 6, name))
    assert ranks.on_ranks(2, newest, folders) == [[4] * len(cases)] * 2
    for folder in folders:
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
            "step-00000002", "step-00000004", "step-00000006.damaged",
        ]  # fmt: skip


def test_ranks_agree_on_what_cannot_be_loaded(here):
    """All damaged, one of a newer launcher, none at all, and two damaged before a good one."""
    folders = [Path(f"case-{i}") for i in range(4)]
    for folder in folders:
        shutil.copytree(here.path, folder)
    for step in (2, 4, 6):
        flipped(file_of(RunDir(folders[0]), step, "shard-00002"))
    file_of(RunDir(folders[1]), 6, "COMPLETE").write_text('{"format": 7}')
    shutil.rmtree(folders[2] / "checkpoints")
    for step in (4, 6):
        emptied(file_of(RunDir(folders[3]), step, "shard-00001"))
    before = support.tree(folders[0])
    found = ranks.on_ranks(2, newest, folders)
    assert found[0] == found[1]
    damaged, newer, none, second = found[0]
    assert [line.split(":")[0].split("/")[-2] for line in damaged[:3]] == [
        "step-00000006", "step-00000004", "step-00000002",
    ]  # fmt: skip
    assert "every checkpoint is damaged" in damaged[3] and support.tree(folders[0]) == before
    assert len(newer) == 1 and "in format 7" in newer[0]
    assert (none, second) == (None, 2)


def of_own(process, folders):
    """What a rank is told of a checkpoint in a folder of its own."""
    folder = RunDir(folders[process.rank])
    try:
        return resume_checkpoint.newest(folder, ["step-00000006"], process)
    except RuntimeError as error:
        return str(error)


def test_damage_that_one_host_alone_sees_sets_nothing_aside(here):
    folders = [Path("right"), Path("wrong")]
    for folder in folders:
        shutil.copytree(here.path, folder)
    for name in FILES[1:]:
        emptied(file_of(RunDir(folders[1]), 6, name))
    first, second = ranks.on_ranks(2, of_own, folders)
    assert first == second and first.startswith("rank 1: wrong/checkpoints/step-00000006/")
    assert "but rank 0 reads it undamaged" in first
    assert all((folder / "checkpoints/step-00000006").is_dir() for folder in folders)


ALL = [(name, damage) for name in FILES for damage in (flipped, cut)]
SHORT = [("shard-00002", flipped), ("state.json", cut)]


@pytest.mark.parametrize(
    ("name", "damage"), [*SHORT, *(pytest.param(*case, marks=pytest.mark.soak) for case in ALL if case not in SHORT)]
)
@pytest.mark.parametrize("step", [pytest.param(4, id="on the way"), pytest.param(6, id="at the end")])
def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(here, finished, name, damage, step):
    """The whole way through the real command, which a start after damage alone proves: the trajectory is that of the
    run without damage."""
    for later in (4, 6):
        if later > step:
            shutil.rmtree(here.checkpoints / f"step-{later:08d}")
    file = file_of(here, step, name)
    damage(file)
    undisturbed = support.steps(finished / "runs/tiny")
    done = support.launcher("run", "recipe.yaml", "--ranks", 2)
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1, done.stdout
    assert str(file) in warnings[0] or name == "COMPLETE"
    aside = f"step-{step:08d}.damaged"
    assert warnings[0].endswith(f": resuming from step {step - 2}; kept as {aside}")
    assert (here.checkpoints / aside).is_dir()
    assert [saved.step for saved in here.whole()] == [2, 4, 6]
    for saved in here.whole():
        saved.verify()
    assert len(support.records(here.path)) > len(undisturbed)
    support.same_run(finished / "runs/tiny", here.path, relative=0)


def test_training_that_goes_back_after_a_spike_passes_a_damaged_checkpoint_over(here):
    flipped(file_of(here, 4, "shard-00002"))
    spike, alone = RollBack(step=6, first=5, loss=9.0, grad_norm=9.0), ProcessGroup(0, 1, torch.device("cpu"))
    assert roll_back.go_back(here, alone, StopMonitor(), spike, abort_after=10) == 2
    assert sorted(path.name for path in here.checkpoints.iterdir()) == ["step-00000002", "step-00000004.damaged"]
