import json
import threading
from pathlib import Path

import pytest

from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


@pytest.fixture
def folder(tmp_path):
    return RunDir(tmp_path)


def test_what_is_told_is_read_in_its_order(folder):
    assert job_log.read(folder) == []
    job_log.append(folder, {"event": "submitted", "job": "12", "time": 5})
    job_log.append(folder, {"event": "cancelled", "job": "12"})
    first, second = job_log.read(folder)
    assert first == {"event": "submitted", "job": "12", "time": 5}
    assert second["event"] == "cancelled"
    assert second["time"] > 1e9


def test_a_line_that_was_cut_is_passed_over_and_spoils_none_after_it(folder):
    job_log.append(folder, {"event": "submitted", "job": "12"})
    whole = folder.job_log.read_bytes()
    folder.job_log.write_bytes(whole + whole[: len(whole) // 2])
    assert len(job_log.read(folder)) == 1
    job_log.append(folder, {"event": "cancelled", "job": "12"})
    assert [event["event"] for event in job_log.read(folder)] == ["submitted", "cancelled"]


@pytest.mark.parametrize("line", ["3", "[]", '{"event": 3, "job": "1"}', '{"event": "started"}', "\xff"])
def test_what_is_no_event_is_passed_over(folder, line):
    folder.job_log.write_text(line + "\n", encoding="latin1")
    assert job_log.read(folder) == []


def test_lines_of_many_writers_are_whole(folder):
    def write(number):
        for _ in range(50):
            job_log.append(folder, {"event": "ended", "job": str(number), "why": "x" * 500})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(job_log.read(folder)) == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_event_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "jobs.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError):
        job_log.append(RunDir(tmp_path), {"event": "cancelled", "job": "12"})


def test_a_job_over_its_requeues():
    began = {"event": "started", "job": "12", "slurm": "12", "ranks": 4}
    ended = {"event": "ended", "job": "12", "start": 0, "code": 75, "why": "time", "step": 40, "excluded": ["b"]}
    (job,) = job_log.story(
        [
            {"event": "submitted", "job": "12", "cluster": "big", "script": "jobs/12.sbatch", "time": 1},
            {**began, "start": 0, "nodes": ["a", "b"], "step": 0, "time": 2},
            {**ended, "time": 3},
            {"event": "requeued", "job": "12", "start": 0, "how": "requeue", "next": "12", "time": 4},
            {**began, "start": 1, "nodes": ["a", "c"], "step": 40, "time": 5},
        ]
    )
    assert (job.name, job.ids, job.cluster, job.script, job.submitted) == ("12", ("12",), "big", "jobs/12.sbatch", 1)
    assert job.requeues == 1
    first, second = job.starts
    assert (first.first, first.last, first.why, first.code, first.excluded) == (0, 40, "time", 75, ("b",))
    assert (first.begun, first.ended) == (2, 3)
    assert (second.nodes, second.first, second.last, second.why, second.ended) == (("a", "c"), 40, None, "", None)


def test_a_start_without_an_end_counts_as_a_requeue():
    (job,) = job_log.story([{"event": "started", "job": "12", "start": n, "step": 0} for n in range(3)])
    assert job.requeues == 2
    assert [start.why for start in job.starts] == ["", "", ""]


def test_a_chained_job_goes_by_the_name_of_the_first():
    (job,) = job_log.story(
        [
            {"event": "started", "job": "12", "start": 0, "slurm": "12"},
            {"event": "requeued", "job": "12", "start": 0, "how": "chain", "next": "15"},
            {"event": "started", "job": "12", "start": 1000, "slurm": "15"},
        ]
    )
    assert job.ids == ("12", "15")
    assert job.requeues == 1


def test_a_task_of_an_array_is_known_by_its_place_in_it():
    (job,) = job_log.story([{"event": "started", "job": "12_1", "start": 0, "slurm": "13"}])
    assert job.ids == ("12_1",)
    (job,) = job_log.story([{"event": "requeued", "job": "12_1", "start": 0, "how": "chain", "next": "15"}])
    assert job.ids == ("12_1", "15_1")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)], ids=["submitted first", "started first"])
def test_the_id_of_a_job_whose_nodes_log_under_another_name(order):
    """A scheduler may start a job before `submit` has returned its id."""
    events = [
        {"event": "submitted", "job": "our_name", "id": "spool_1", "scheduler": "own.spool", "time": 1},
        {"event": "started", "job": "our_name", "start": 0, "time": 2},
        {"event": "ended", "job": "our_name", "start": 0, "why": "failed", "time": 3},
    ]
    (job,) = job_log.story(events[i] for i in order)
    assert (job.name, job.ids, job.scheduler) == ("our_name", ("spool_1",), "own.spool")
    assert [start.why for start in job.starts] == ["failed"]


def test_ids_of_starts_as_nodes_log_them_now():
    begun = {"event": "started", "start": 0, "scheduler": "mine.slurm"}
    (job,) = job_log.story([{**begun, "job": "12", "id": "12"}, {**begun, "job": "12", "id": "15", "start": 1000}])
    assert (job.ids, job.scheduler, [start.id for start in job.starts]) == (("12", "15"), "mine.slurm", ["12", "15"])
    (job,) = job_log.story([{**begun, "job": "12_1", "id": "15_1"}])
    assert job.ids == ("12_1", "15_1")


def test_an_end_belongs_to_the_newest_start_of_its_number():
    events = [{"event": e, "job": "by-hand", "start": 0, "step": s} for e in ("started", "ended") for s in (1,)]
    (job,) = job_log.story([*events, *events])
    assert [start.ended is not None for start in job.starts] == [True, True]
    assert job.ids == ()


def test_an_end_that_was_never_begun_and_words_of_a_newer_launcher_do_no_harm():
    (job,) = job_log.story(
        [
            {"event": "ended", "job": "12", "start": 0, "code": 69, "why": "node", "step": None},
            {"event": "praised", "job": "12"},
        ]
    )
    assert [(start.why, start.last) for start in job.starts] == [("node", None)]


def test_events_are_json_lines(folder):
    job_log.append(folder, {"event": "started", "job": "ä", "nodes": ["a"]})
    assert json.loads(folder.job_log.read_text())["job"] == "ä"
