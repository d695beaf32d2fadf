"""TensorBoard's event files, read back by its own reader."""

import os
import signal
import subprocess
import sys

import pytest

from launcher.sinks import tensorboard as sink

pytest.importorskip("tensorboard")


def read(about):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(about.folder / "tensorboard"), {"scalars": 0}).Reload()


def points(about, name):
    return [(point.step, pytest.approx(point.value, rel=1e-6)) for point in read(about).Scalars(name)]


def write(about, records, finished=True):
    opened = sink.Sink(sink.Config(), about)
    for record in records:
        opened.write(record)
    opened.close(finished)


def test_every_number_of_every_record_is_there_at_its_step(about, training, evaluation):
    write(about(), [evaluation(0), *(training(step) for step in range(1, 7)), evaluation(6)])
    numbers = [name for name in training(1) if name not in ("step", "data")]
    assert sorted(read(about()).Tags()["scalars"]) == sorted([*numbers, "eval/loss", "eval/accuracy", "eval/f1/few"])
    for name in numbers:
        assert points(about(), name) == [(step, training(step)[name]) for step in range(1, 7)]
    assert points(about(), "eval/accuracy") == [(0, 0.75), (6, 0.75)]


@pytest.mark.parametrize("start", [0, 3])
def test_a_resume_goes_on_without_a_zigzag(about, training, evaluation, start):
    """A later file says from which step on the earlier ones do not count."""
    write(about(), [evaluation(0), *(training(step) for step in range(1, 6))], finished=False)
    again = [] if start else [evaluation(0)]
    later = [{**training(step), "loss": 1.0} for step in range(start + 1, 7)]
    write(about(start=start), [*again, *later])
    assert points(about(), "loss") == [(n, training(n)["loss"] if n <= start else 1.0) for n in range(1, 7)]
    assert points(about(), "eval/loss") == [(0, 4.25)]
    assert len(list((about().folder / "tensorboard").iterdir())) == 2


def test_the_recipe_is_its_hyperparameters_without_a_run_of_their_own(about, training):
    from tensorboard.plugins.hparams import plugin_data_pb2

    write(about(), [training(1)])
    found = read(about()).SummaryMetadata("_hparams_/session_start_info")
    start = plugin_data_pb2.HParamsPluginData.FromString(found.plugin_data.content).session_start_info
    values = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert values == {
        "name": "tiny", "seed": 3, "model.kind": "config", "model.type": "bert", "train.global_batch": 12
    }  # fmt: skip
    assert all(path.is_file() for path in (about().folder / "tensorboard").iterdir())


def test_a_killed_rank_loses_no_record(about, training):
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom launcher.sinks import RunInfo, tensorboard as sink\n"
        f"about = RunInfo('tiny', Path({str(about().folder)!r}), {{}}, 6, 0, 0.0, 0, '', [])\n"
        "opened = sink.Sink(sink.Config(), about)\n"
        f"for step in (1, 2): opened.write({training(1)!r} | {{'step': step}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    assert [step for step, _ in points(about(), "loss")] == [1, 2]


def test_a_folder_that_cannot_be_written_is_told_once_and_training_goes_on(about, training, capsys):
    (about().folder / "tensorboard").touch()
    write(about(), [training(1), training(2)])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tensorboard: ") and line.endswith("records from step 1 on are lost to it, training goes on")
