"""A run's folder as it is found: whole or half-written, damaged or sound, and nothing of it changed by looking."""

import json
from pathlib import Path

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config import load
from launcher.config.atomic_files import allocated_bytes
from launcher.config.errors import UserError
from launcher.config.paths import COMPLETE
from launcher.config.recipe import Recipe
from launcher.config.training import Checkpoint
from launcher.storage.checkpoint_format import SavedCheckpoint, checksum
from launcher.storage.run_dir import RunDir, best


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    return RunDir(Path("runs/tiny"))


def checkpoint(run: RunDir, step: int, loss: float | None = None, whole: bool = True) -> Path:
    """A checkpoint as the ranks leave it, small."""
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(64)))
    evaluation = {} if loss is None else {"eval/loss": loss, "step": step}
    (folder / "state.json").write_text(json.dumps({"step": step, "data": "d", "evaluation": evaluation}))
    files = {file.name: [file.stat().st_size, checksum(file)] for file in sorted(folder.iterdir())}
    if whole:
        (folder / COMPLETE).write_text(json.dumps({"files": files}, indent=1))
    return folder


def refused(look) -> str:
    with pytest.raises(UserError) as told:
        look()
    assert len(told.value.problems) == 1
    return str(told.value)


# Whole or half-written


def test_a_folder_that_is_not_there_holds_nothing(run):
    assert run.whole() == run.half_written() == list(run.lines()) == []
    assert run.mend_metrics() is None
    assert not run.path.exists()


def test_whole_checkpoints_come_in_the_order_of_their_steps(run):
    for step in (200, 4, 100_000_000, 30):
        checkpoint(run, step)
    assert [saved.step for saved in run.whole()] == [4, 30, 200, 100_000_000]


def test_what_is_not_complete_is_half_written_and_never_whole(run):
    checkpoint(run, 2)
    torn = checkpoint(run, 4, whole=False)
    aside = run.checkpoints / ".step-00000006.partial"
    aside.mkdir()
    (torn / f".{COMPLETE}.partial").write_text("{}")
    assert [saved.step for saved in run.whole()] == [2]
    assert run.half_written() == [aside, torn]


@pytest.mark.parametrize("name", ["step-00000002.bak", "step-2 (copy)", "mine", "step-", "step-x", ".cache"])
def test_folders_of_the_users_own_beside_the_checkpoints_are_neither(run, name):
    checkpoint(run, 2).rename(run.checkpoints / name)
    checkpoint(run, 4)
    (run.checkpoints / f"{name}-empty").mkdir()
    (run.checkpoints / "notes.txt").write_text("x")
    assert [saved.step for saved in run.whole()] == [4]
    assert run.half_written() == []


@pytest.mark.parametrize(
    ("losses", "keep", "superseded", "spare"),
    [
        ([None] * 4, 2, [2, 4], [2, 4, 6]),
        ([None] * 4, 1, [2, 4, 6], [2, 4, 6]),
        ([1.0, 2.0, 3.0, 4.0], 2, [4], [4, 6]),
        ([1.0, 2.0, 3.0, 4.0], 9, [], []),
    ],
)
def test_what_a_save_may_remove_is_never_the_newest_or_the_best(run, losses, keep, superseded, spare):
    for step, loss in zip((2, 4, 6, 8), losses, strict=True):
        checkpoint(run, step, loss)
    keep = Checkpoint(keep=keep)
    assert [saved.step for saved in run.superseded(keep)] == superseded
    assert [saved.step for saved in run.spare(keep)] == spare
    half = checkpoint(run, 10, whole=False)
    sizes = [allocated_bytes(path) for path in (half, *(saved.path for saved in run.spare(keep)))]
    assert run.reclaimable_bytes(keep) == sum(sizes) > 0


def test_steps_that_are_multiples_are_kept_too(run):
    for step in range(1, 9):
        checkpoint(run, step)
    assert [saved.step for saved in run.superseded(Checkpoint(keep=1, keep_every=3))] == [1, 2, 4, 5, 7]


# Which checkpoint


def test_a_checkpoint_is_asked_for_as_latest_best_or_by_its_step(run):
    for step, loss in ((2, 3.0), (4, 1.5), (6, 2.0)):
        checkpoint(run, step, loss)
    assert {which: run.saved(which).step for which in ("latest", "best", 2)} == {"latest": 6, "best": 4, 2: 2}


def test_a_step_that_is_not_there_lists_those_that_are(run):
    checkpoint(run, 2)
    checkpoint(run, 4)
    checkpoint(run, 6, whole=False)
    told = refused(lambda: run.saved(6))
    assert told == "runs/tiny/checkpoints: no whole checkpoint of step 6 (there are: 2, 4, latest, best)"


def test_no_checkpoint_at_all_is_told(run):
    checkpoint(run, 2, whole=False)
    told = refused(lambda: run.saved("latest"))
    assert told == "runs/tiny/checkpoints: no whole checkpoint in it (train this run first)"


def test_best_is_among_those_made_at_an_evaluation_and_else_the_latest(run):
    checkpoint(run, 2)
    checkpoint(run, 4)
    assert best(run.whole()) is None
    assert run.saved("best").step == 4
    checkpoint(run, 3, loss=9.0)
    assert run.saved("best").step == 3


def test_the_first_of_equals_is_best_and_a_loss_that_is_no_number_never(run):
    for step, loss in ((2, float("nan")), (4, 1.5), (6, 1.5), (8, float("inf"))):
        checkpoint(run, step, loss)
    assert run.saved("best").step == 4


@pytest.mark.parametrize("damage", ["", "[]", "\x00", '{"evaluation": []}', '{"evaluation": {"eval/loss": "x"}}'])
def test_a_damaged_state_is_not_the_best_and_not_in_the_way(run, damage):
    (checkpoint(run, 2, 0.5) / "state.json").write_text(damage)
    checkpoint(run, 4, 1.5)
    assert run.saved("best").step == 4


# Checksums


def test_a_whole_checkpoint_is_verified(run):
    SavedCheckpoint(checkpoint(run, 2)).verify()


def advice(folder: Path) -> str:
    return "(a resume uses the checkpoint before it; --checkpoint STEP names another one)"


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_any_bit_that_flips_in_a_file_is_found(run, name):
    folder = checkpoint(run, 2)
    file = folder / name
    content = file.read_bytes()
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        told = refused(SavedCheckpoint(folder).verify)
        assert told == f"{file}: damaged: its content is not what was written {advice(folder)}"
    file.write_bytes(content)
    SavedCheckpoint(folder).verify()


def test_any_bit_that_flips_in_the_mark_itself_is_found(run):
    folder = checkpoint(run, 2)
    mark = folder / COMPLETE
    content = mark.read_bytes()
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        mark.write_bytes(damaged)
        told = refused(SavedCheckpoint(folder).verify)
        assert told.endswith(advice(folder)), told


@pytest.mark.parametrize(
    "mark",
    [
        "", "{}", "[]", "null", '{"files": 3}', '{"files": {"a": 3}}', '{"files": {"a": []}}', '{"files": {}}',
        '{"files": {"../a": [1, "x"]}}', '{"files": {"%s": [1, "x"]}}' % ("a" * 300), '{"files": {"a": [-1, "x"]}}',
    ],
)  # fmt: skip
def test_a_mark_that_says_nothing_is_damaged(run, mark):
    folder = checkpoint(run, 2)
    (folder / COMPLETE).write_text(mark)
    told = f"{folder / COMPLETE}: damaged: not what was written {advice(folder)}"
    assert refused(SavedCheckpoint(folder).verify) == told


def test_a_missing_file_is_found(run):
    folder = checkpoint(run, 2)
    (folder / "model.safetensors").unlink()
    told = f"{folder}/model.safetensors: missing from the checkpoint {advice(folder)}"
    assert refused(SavedCheckpoint(folder).verify) == told


@pytest.mark.parametrize("size", [0, 63])
def test_a_file_cut_short_is_found(run, size):
    folder = checkpoint(run, 2)
    (folder / "model.safetensors").write_bytes(bytes(range(size)))
    assert "model.safetensors: damaged" in refused(SavedCheckpoint(folder).verify)


# The metrics


LINES = b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'


def write(run: RunDir, content: bytes) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.metrics.write_bytes(content)


def test_the_lines_come_in_the_order_they_were_written(run):
    write(run, LINES)
    assert [line["step"] for line in run.lines()] == [1, 2]
    assert run.mend_metrics() is None
    assert run.metrics.read_bytes() == LINES


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(LINES)))
def test_wherever_a_kill_cuts_the_last_line_the_lines_before_it_stay(tmp_path_factory, cut):
    run = RunDir(tmp_path_factory.mktemp("run"))
    write(run, LINES[:cut])
    whole = LINES[:cut].count(b"\n")
    assert [line["step"] for line in run.lines()] == [1, 2][:whole]
    assert run.metrics.read_bytes() == LINES[:cut]

    kept = LINES[: cut if LINES[:cut].endswith(b"\n") else LINES[:cut].rfind(b"\n") + 1]
    note = run.mend_metrics()
    left = f"{run.metrics}: its last line was cut in the middle: {cut - len(kept)} bytes taken away"
    assert note == (left if cut > len(kept) else None)
    assert run.metrics.read_bytes() == kept
    assert run.mend_metrics() is None
    assert [file.name for file in run.path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("line", [b"", b"{", b'{"step": 1', b'{"step": 1}{}', b"\xff\xfe", b"12", b"[]", b"null"])
def test_a_damaged_line_in_the_middle_is_told_with_its_number(run, line):
    content = LINES + line + b"\n" + LINES
    write(run, content)
    told = "runs/tiny/metrics.jsonl:3: damaged: not a JSON object (take this line out, or move the file away)"
    assert refused(lambda: list(run.lines())) == told
    assert run.mend_metrics() is None
    assert run.metrics.read_bytes() == content


# Another recipe


def recipe(**changes) -> Recipe:
    return Recipe.model_validate(support.mlm(**changes))


@pytest.fixture
def trained(run):
    checkpoint(run, 2)
    load.dump(recipe(), run.recipe)
    return run


def test_the_recipe_of_the_folder_may_go_on(trained):
    trained.check_recipe(recipe())
    trained.check_recipe(recipe(train__max_tokens=512, strategy="single", checkpoint={"every": 1}, sinks=["console"]))


def test_a_folder_without_checkpoint_and_metrics_takes_any_recipe(run):
    run.path.mkdir(parents=True)
    load.dump(recipe(), run.recipe)
    run.check_recipe(recipe(seed=99))
    checkpoint(run, 2, whole=False)
    run.check_recipe(recipe(seed=99))


def test_another_trajectory_is_told_key_by_key(trained):
    told = refused(lambda: trained.check_recipe(recipe(seed=4, schedule={"kind": "linear"})))
    assert told == (
        "runs/tiny: made by another recipe: seed: 3 there, 4 here; schedule.kind: constant there, linear here; "
        "schedule.floor: None there, 0.0 here (choose another name, or move it away)"
    )


def test_many_differences_are_counted(trained):
    told = refused(lambda: trained.check_recipe(recipe(
        seed=4, model__hidden_size=32, model__num_hidden_layers=1, train__steps=9, data__max_length=16, optimizer__lr=1,
    )))  # fmt: skip
    assert told.count(" there, ") == 4
    assert "; " in told
    assert told.endswith(" and 2 more (choose another name, or move it away)")


def test_metrics_alone_are_a_run_too(trained):
    write(trained, LINES)
    for file in trained.checkpoints.rglob(COMPLETE):
        file.unlink()
    assert "made by another recipe" in refused(lambda: trained.check_recipe(recipe(seed=4)))


def test_looking_changes_nothing(trained):
    write(trained, LINES + b'{"st')
    before = support.tree(".")
    trained.whole(), trained.half_written(), trained.saved("best").verify(), list(trained.lines())
    trained.check_recipe(recipe())
    assert support.tree(".") == before
