"""Weights & Biases offline: what is in its own file, read back."""

import json
import re
import shutil
import socket
import time
from contextlib import suppress

import pytest
import support
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from support import wandb_file

from launcher.sinks import wandb as sink


@pytest.fixture(scope="module", autouse=True)
def service():
    """The process that wandb writes with ends with the tests of this file."""
    yield
    import wandb

    wandb.teardown()


def settled(file):
    """The records of a file once its last is there: wandb's own process may still be writing when a run is closed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(DecodeError):
            records = list(wandb_file.records(file))
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
        time.sleep(0.02)
    raise AssertionError(f"{file}: no end")


def runs(about):
    """One for each start: what was logged, what is known of the run, and its exit code."""
    found = []
    for file in sorted((about.folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime_ns):
        records = settled(file)
        rows = wandb_file.history(records)
        (run,) = (r.run for r in records if r.WhichOneof("record_type") == "run")
        (end,) = (r.exit for r in records if r.WhichOneof("record_type") == "exit")
        found.append((rows, run, end.exit_code))
    return found


def write(about, records, finished=True, **keys):
    opened = sink.Sink(sink.Config(mode="offline", **keys), about)
    for record in records:
        opened.write(record)
    opened.close(finished)


def own(row):
    """A row without what wandb adds."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


def test_every_record_is_there_with_its_numbers(about, training, evaluation):
    records = [evaluation(0), *(training(step) for step in range(1, 7)), evaluation(6)]
    write(about(), records)
    ((rows, _, code),) = runs(about())
    assert [own(row) for row in rows] == records
    assert code == 0


def test_the_resolved_recipe_is_its_configuration(about, training):
    write(about(), [training(1)])
    ((_, run, _),) = runs(about())
    known = {entry.key: json.loads(entry.value_json) for entry in run.config.update}
    assert own(known) == about().recipe
    assert run.display_name == "tiny"


def test_project_group_and_tags_are_those_of_the_recipe(about, training):
    write(about(), [training(1)], project="encoders", entity="us", group="tiny ones", tags=["a", "b"])
    ((_, run, _),) = runs(about())
    assert (run.project, run.entity, run.run_group) == ("encoders", "us", "tiny ones")
    assert list(run.tags) == ["a", "b"]


def test_a_resume_is_the_same_run(about, training):
    write(about(), [training(1), training(2)], finished=False)
    name = (about().folder / "wandb.id").read_text()
    write(about(start=2), [training(3)])
    first, second = runs(about())
    assert first[1].run_id == second[1].run_id == name
    assert (about().folder / "wandb.id").read_text() == name
    assert [[row["step"] for row in rows] for rows in (first[0], second[0])] == [[1, 2], [3]]
    assert (first[2], second[2]) == (1, 0)


def test_the_newest_start_holds_all_that_went_before_it_and_of_a_step_told_twice_the_later(about, training):
    metrics = [*(training(step) for step in (1, 2, 3)), {**training(2), "loss": 1.0}]
    lines = "".join(json.dumps(record) + "\n" for record in metrics)
    (about().folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    write(about(start=2), [training(3)])
    ((rows, _, _),) = runs(about())
    assert [own(row) for row in rows] == [training(1), {**training(2), "loss": 1.0}, training(3)]


def test_what_is_trained_anew_after_a_spike_is_not_taken_for_a_repetition(about, training):
    """wandb drops a step that it has. So steps of a spike have later ones when they are taken again, and others not."""
    spikes = {"spikes": [{"first": 3, "step": 4, "loss": 9.0, "grad_norm": 1.0}]}
    opened = sink.Sink(sink.Config(mode="offline"), about())
    before = [opened._step_of(record) for record in (training(2), training(3), training(4), {"step": 4})]
    opened.close(False)
    (about().folder / "roll_backs.json").write_text(json.dumps(spikes))
    opened = sink.Sink(sink.Config(mode="offline"), about(start=2))
    after = [opened._step_of(record) for record in (training(2), training(3), training(4), {"step": 4})]
    opened.close(False)
    assert before == sorted({*before}) and after == sorted({*after})
    assert before[0] == after[0] and before[-1] < after[1]


REPORT = {
    "classes": {"few": {"precision": 0.5, "recall": 1.0}, "many": {"precision": 0.25, "recall": 0.0}},
    "confusion": [[1, 2], [0, 3]], "labels": ["few", "many"],
}  # fmt: skip


def test_the_table_of_classes_and_the_confusion_matrix_of_an_evaluation_are_in_it(about, training, evaluation):
    opened = sink.Sink(sink.Config(mode="offline"), about())
    opened.write(training(1))
    opened.report(1, REPORT)
    opened.write(evaluation(1))
    opened.close(True)
    ((rows, _, _),) = runs(about())
    assert [row["step"] for row in rows] == [1, 1, 1]
    (folder,) = (about().folder / "wandb").glob("offline-run-*")
    paths = [rows[1]["tables/classes.path"], rows[1]["tables/confusion_table.path"]]
    classes, confusion = (json.loads((folder / "files" / path).read_text()) for path in paths)
    assert (classes["columns"], classes["data"]) == (
        ["class", "precision", "recall"], [["few", 0.5, 1.0], ["many", 0.25, 0.0]]
    )  # fmt: skip
    assert confusion["data"] == [["few", "few", 1], ["few", "many", 2], ["many", "few", 0], ["many", "many", 3]]


def test_a_server_that_is_down_makes_a_start_offline_with_all_that_went_before(about, training, capsys, monkeypatch):
    """Nobody listens at the port; the command at the end names the folder that has it all."""
    monkeypatch.setattr(sink, "_CONNECT", 2.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    metrics = "".join(json.dumps(training(step)) + "\n" for step in (1, 2, 3))
    (about().folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        opened = sink.Sink(sink.Config(mode="online"), about(start=2))
    opened.write(training(3))
    opened.close(True)
    ((rows, _, _),) = runs(about())
    assert [own(row) for row in rows] == [training(1), training(2), training(3)]
    (folder,) = (about().folder / "wandb").glob("offline-run-*")
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("wandb: ") and "this start is logged offline" in first
    assert last == f"wandb: offline; to upload the whole run: wandb sync {folder}"


def test_two_runs_have_two_names(about, tmp_path):
    found = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        found.add(sink._id(about(folder=tmp_path / name)))
    assert len(found) == 2
    assert all(len(name) == 16 and name.isalnum() for name in found)


def test_steps_are_what_metrics_are_drawn_over(about, training):
    write(about(), [training(1)])
    (file,) = (about().folder / "wandb").glob("offline-run-*/*.wandb")
    metrics = [r.metric for r in settled(file) if r.WhichOneof("record_type") == "metric"]
    assert [(m.glob_name, m.step_metric) for m in metrics if m.glob_name] == [("*", "step")]


def test_neither_code_nor_git_nor_output_is_taken_along(about, training):
    write(about(), [training(1)])
    names = {p.name for p in (about().folder / "wandb").rglob("*") if p.is_file()}
    assert not names & {"output.log", "diff.patch"}
    assert not any(name.endswith(".py") for name in names)
    ((_, run, _),) = runs(about())
    assert not run.git.commit


def test_a_folder_that_is_deleted_is_told_once_and_training_goes_on(about, training, capsys):
    metrics = about().folder / "metrics.jsonl"
    metrics.touch()
    opened = sink.Sink(sink.Config(mode="offline"), about())
    opened.write(training(1))
    folder = next((about().folder / "wandb").glob("offline-run-*"))
    shutil.rmtree(about().folder / "wandb")
    for step in (2, 3, 4):
        opened.write(training(step))
    opened.close(True)
    lost = f"wandb: {folder} was deleted; records from step 2 on are lost to it, training goes on"
    assert capsys.readouterr().out == f"{lost} ({metrics} has every record)\n"


def test_a_full_disk_is_told_once_since_wandb_does_not_tell(about, training, capsys, tmp_path):
    folder = tmp_path / "disk"
    with support.tmpfs(folder, "1m"):
        opened = sink.Sink(sink.Config(mode="offline"), about(folder=folder))
        opened.write(training(1))
        with (folder / "filler").open("wb") as filler, suppress(OSError):
            filler.write(bytes(2**20))
        for step in (2, 3):
            opened.write(training(step))
        opened.close(False)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(rf"wandb: the disk of {folder}/wandb/offline-run-\S+ is full: ", line)
    lost = "; records from step 2 on are lost to it, training goes on (sinks: [wandb, jsonl] keeps them)"
    assert line.endswith(lost)


def test_a_mode_there_is_not_is_refused():
    with pytest.raises(ValidationError, match="mode"):
        sink.Config(mode="ofline")
