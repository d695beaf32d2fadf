"""The story of starts by hand, however they end; the disk may be full."""

import pytest

from launcher.config.errors import UserError
from launcher.distributed.local_run_record import recorded
from launcher.distributed.signals import StopReason
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


def noted(error, note):
    error.add_note(note)
    return error


def last(folder):
    (job,) = job_log.story(job_log.read(folder))
    return job.starts[-1]


@pytest.mark.parametrize(
    ("code", "reason", "why"),
    [
        (0, StopReason.NONE, "done"),
        (75, StopReason.STOP, "told"),
        (75, StopReason.MAKE_WAY, "time"),
        (1, StopReason.REPLACED, "replaced"),
        (1, StopReason.NONE, "failed"),
        (2, StopReason.NONE, "failed"),
    ],
)
def test_why_a_start_ended(tmp_path, code, reason, why):
    folder = RunDir(tmp_path)
    with recorded(folder, 2) as start:
        assert last(folder).why == ""
        start.end(code, reason, "a sentence\nof two lines", 1)
    end = last(folder)
    assert (end.why, end.code, end.ranks, end.error, end.rank) == (why, code, 2, "a sentence of two lines", 1)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (noted(ValueError("no"), "at step 3"), "failed at step 3: ValueError: no"),
        (SystemExit(0), "failed: RuntimeError: its code called exit(0)"),
        (UserError("data: wrong (hint)"), "data: wrong (hint)"),
        (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]"), "a rank lost another, whose own log says why"),
    ],
)
def test_an_error_is_recorded_as_the_cause(tmp_path, error, text):
    with pytest.raises(type(error)), recorded(RunDir(tmp_path), 1):
        raise error
    end = last(RunDir(tmp_path))
    assert (end.why, end.error) == ("failed", text)


def test_a_block_that_ends_is_done_and_each_start_is_recorded(tmp_path):
    for _ in range(2):
        with recorded(RunDir(tmp_path), 1):
            pass
    (job,) = job_log.story(job_log.read(RunDir(tmp_path)))
    assert ([start.why for start in job.starts], job.requeues, job.ids) == (["done", "done"], 0, ())


def test_a_record_that_cannot_be_written_raises_nothing(tmp_path):
    with recorded(RunDir(tmp_path / "gone"), 1):
        pass
