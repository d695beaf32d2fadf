"""MLflow in files and in sqlite, read back by its own client; and without a server."""

import json
import os
import socket
import time

import pytest

from launcher.config.strict_json import DamagedFile
from launcher.sinks import mlflow as sink

pytest.importorskip("mlflow")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")


def client(about):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=(about.folder / "mlruns").absolute().as_uri())


def run_id(about):
    return (about.folder / "mlflow.id").read_text()


def points(about, name):
    return [(one.step, one.value) for one in client(about).get_metric_history(run_id(about), name)]


def write(about, records, finished=True, **keys):
    opened = sink.Sink(sink.Config(**keys), about)
    for record in records:
        opened.write(record)
    opened.close(finished)


@pytest.fixture
def metrics(about):
    """Write records as metrics.jsonl has them."""

    def make(records):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (about().folder / "metrics.jsonl").write_text(lines, encoding="utf-8")

    return make


def test_every_number_and_the_recipe_are_there(about, training, evaluation):
    evaluations = [{**evaluation(step), "eval/f1": 0.25} for step in (0, 6)]  # beside eval/f1/few
    write(about(), [evaluations[0], *(training(step) for step in range(1, 7)), evaluations[1]], tags={"a": "b"})
    for name in ("loss", "grad_norm", "lr", "samples", "tokens", "seconds"):
        assert points(about(), name) == [(step, training(step)[name]) for step in range(1, 7)]
    assert points(about(), "eval/f1.few") == [(0, 0.5), (6, 0.5)]
    assert points(about(), "eval/f1") == [(0, 0.25), (6, 0.25)]
    run = client(about()).get_run(run_id(about()))
    assert run.data.params == {
        "name": "tiny", "seed": "3", "model.kind": "config", "model.type": "bert", "train.global_batch": "12"
    }  # fmt: skip
    assert (run.info.run_name, run.info.status, run.data.tags["a"]) == ("tiny", "FINISHED", "b")


def test_a_resume_is_the_same_run_in_which_no_step_stands_twice_and_what_was_not_sent_is_made_up_for(
    about, training, metrics
):
    write(about(), [training(1), training(2), training(4)], finished=False)
    first = run_id(about())
    assert client(about()).get_run(first).info.status == "KILLED"
    metrics([training(step) for step in (1, 2, 3, 4, 5)])
    repeated = {**training(4), "loss": training(4)["loss"] * (1 + 1e-7)}  # on other ranks it is the same to rounding
    write(about(start=3), [repeated, training(5)])
    assert run_id(about()) == first
    assert sorted(points(about(), "loss")) == [(step, training(step)["loss"]) for step in range(1, 6)]
    assert client(about()).get_run(first).info.status == "FINISHED"


def test_sqlite_is_taken_too(about, training):
    from mlflow import MlflowClient

    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{about().folder}/all.db"
    write(about(), [training(1)], tracking_uri=uri)
    found = MlflowClient(tracking_uri=uri).get_metric_history(run_id(about()), "loss")
    assert [(one.step, one.value) for one in found] == [(1, training(1)["loss"])]


def test_a_server_that_is_down_neither_ends_nor_slows_a_run(about, training, metrics, monkeypatch, capsys):
    monkeypatch.setattr(sink, "_PATIENCE", 2.0)
    with socket.socket() as bound:  # nobody listens, so that it refuses
        bound.bind(("127.0.0.1", 0))
        port, begin = bound.getsockname()[1], time.monotonic()
        opened = sink.Sink(sink.Config(tracking_uri=f"http://127.0.0.1:{port}"), about())
        for step in (1, 2, 3):
            opened.write(training(step))
        assert len(opened._waiting) == 3, "written at once, whoever listens"
        opened.close(False)
        assert time.monotonic() - begin < 120
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "mlflow: 3 records could not be sent (a resume sends them from metrics.jsonl)"
    assert [line for line in lines[:-1] if not line.endswith("; records wait, training goes on")] == []
    metrics([training(step) for step in (1, 2, 3)])
    write(about(start=3), [training(4)])
    assert points(about(), "loss") == [(step, training(step)["loss"]) for step in range(1, 5)]


def test_labels_may_have_any_characters(about):
    name = "eval/f1/a//b..#é:c"
    write(about(), [{"step": 1, name: 0.5}])
    (key,) = client(about()).get_run(run_id(about())).data.metrics
    assert key == "eval/f1.a__b.._é:c"


def test_a_damaged_id_is_refused(about):
    (about().folder / "mlflow.id").write_text("../../elsewhere")
    with pytest.raises(DamagedFile, match="not the id of a run"):
        sink.Sink(sink.Config(), about())


def test_the_password_of_the_server_is_not_shown(about, training, capfd, monkeypatch):
    monkeypatch.setattr(sink, "_PATIENCE", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2secret@127.0.0.1:9")
    opened = sink.Sink(sink.Config(), about())
    opened.write(training(1))
    said, end = "", time.monotonic() + 120
    while "records wait" not in said and time.monotonic() < end:
        time.sleep(0.1)
        said += "".join(capfd.readouterr())
    opened.close(False)
    said += "".join(capfd.readouterr())
    assert "API request to http://127.0.0.1:9" in said
    assert "hunter2secret" not in said and "user:" not in said


def test_long_keys_and_values_are_cut(about, training):
    long = about(recipe={"name": "tiny", "k" * 300: 1, "note": "v" * 7000})
    write(long, [training(1)])
    params = client(long).get_run(run_id(long)).data.params
    assert params == {"name": "tiny", "k" * 250: "1", "note": "v" * 6000}
    assert points(long, "loss") == [(1, training(1)["loss"])]
