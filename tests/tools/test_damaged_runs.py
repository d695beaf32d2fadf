"""Commands report a damaged file with its line, and show everything else."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support.job_stories import NOW, SUBMITTED, run, started
from typer.testing import CliRunner

from launcher import cli
from launcher.config.errors import UserError
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools import seeds
from launcher.tools.compare import compare
from launcher.tools.status import run_events, run_status, status
from launcher.tools.trained_model import best_note

LINE = "take this line out, or move the file away"
STATE = "a resume uses the checkpoint before it; --checkpoint STEP names another one"


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """Two runs, one of them to be damaged, on a machine without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("good", "bad"):
        run(tmp_path / "runs" / name, checkpoint=40, loss=2.0)
    return RunDir(Path("runs/bad"))


def add(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(f"{line}\n")


def state(bad: RunDir, text: str) -> None:
    (bad.checkpoints / "step-00000040" / "state.json").write_text(text)


def replaced_by_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


EVENT = {"event": "started", "job": "1", "time": 1}
CASES = [
    (lambda bad: state(bad, "null"), f"checkpoints/step-00000040/state.json: damaged: not a JSON object ({STATE})"),
    (lambda bad: state(bad, '{"step": -1}'), "checkpoints/step-00000040/state.json: damaged: step: should be greater "
     f"than or equal to 0 ({STATE})"),
    (lambda bad: add(bad.metrics, '{"step": "x", "loss": 1.0}'),
     f"metrics.jsonl:3: damaged: step: should be a whole number ({LINE})"),
    (lambda bad: add(bad.metrics, '{"step": 1, "loss": "x"}'),
     f"metrics.jsonl:3: damaged: loss: should be a number ({LINE})"),
    (lambda bad: add(bad.metrics, '{"step": 1, "loss": NaN}'),
     f"metrics.jsonl:3: damaged: loss: should be a number ({LINE})"),
    (lambda bad: add(bad.metrics, "\0"), f"metrics.jsonl:3: damaged: not a JSON object ({LINE})"),
    (lambda bad: replaced_by_a_pipe(bad.metrics),
     f"metrics.jsonl: damaged: a pipe or a device is in its place ({LINE})"),
    (lambda bad: add(bad.job_log, json.dumps({**EVENT, "nodes": 5})),
     f"jobs.jsonl:1: damaged: nodes: should be a valid list ({LINE})"),
    (lambda bad: add(bad.job_log, json.dumps({**EVENT, "start": float("inf")})),
     f"jobs.jsonl:1: damaged: start: should be a valid integer ({LINE})"),
    (lambda bad: add(bad.job_log, json.dumps({**EVENT, "job": "../../x"})),
     f"jobs.jsonl:1: damaged: job: should be a name without a path ({LINE})"),
    (lambda bad: add(bad.job_log, json.dumps({**EVENT, "slurm": "--help"})),
     f"jobs.jsonl:1: damaged: slurm: begins with a dash ({LINE})"),
    (lambda bad: add(bad.job_log, json.dumps({**EVENT, "time": 1e300})),
     f"jobs.jsonl:1: damaged: time: should be less than 250000000000 ({LINE})"),
    (lambda bad: bad.plan.write_text('{"steps": "x"}'),
     "plan.json: damaged: steps: should be a valid integer (launcher run writes it again)"),
    (lambda bad: bad.plan.write_text("["), "plan.json: damaged: not a JSON object (launcher run writes it again)"),
    (lambda bad: (bad.plan.unlink(), bad.plan.mkdir()),
     "plan.json: damaged: a folder is in its place (launcher run writes it again)"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "what"), CASES, ids=range(len(CASES)))
def test_status_shows_a_damaged_run_and_the_others(bad, printed, damage, what):
    damage(bad)
    lines = printed(lambda console: status.status([], False, console), width=200)
    rows = {line.split()[0]: line for line in lines[1:3]}
    assert rows["good"].split()[:4] == ["good", "stopped", "40/100", "2"]
    assert ", damaged " in rows["bad"]
    assert f"runs/bad/{what}" in lines
    asked = CliRunner().invoke(cli.app, ["status", "--json"])
    assert asked.exit_code == 0
    damaged = {one["name"]: one["damaged"] for one in json.loads(asked.stdout)}
    assert damaged == {"good": [], "bad": [f"runs/bad/{what}"]}


def test_several_damaged_files_are_all_shown(bad):
    bad.plan.write_text("[")
    state(bad, "{")
    add(bad.metrics, "{}")
    one = run_status.read_status(bad, run_events.JobSchedulers())
    assert [what.split(": ")[0].removeprefix("runs/bad/") for what in one.damaged] == [
        "plan.json", "checkpoints/step-00000040/state.json", "metrics.jsonl:3",
    ]  # fmt: skip
    assert (one.step, one.steps, one.loss) == (40, None, 2.0)


def test_a_line_that_a_kill_cut_off_is_no_damage(bad):
    bad.metrics.write_bytes(bad.metrics.read_bytes() + b'{"step": 44, "lo')
    bad.job_log.write_text('{"event": "sta')
    assert run_status.read_status(bad, run_events.JobSchedulers()).damaged == ()


def test_names_in_the_job_log_are_no_markup(bad, printed):
    for number, (event, fields) in enumerate([SUBMITTED, started()]):
        job_log.append(bad, {"event": event, "job": "[b]", "time": NOW + number, **fields, "slurm": "[red]"})
    assert "[red]" in "\n".join(printed(lambda console: status.status([], False, console), width=200))


def test_a_folder_with_an_unprintable_name_is_listed(bad, printed):
    shutil.copytree(bad.path, Path(os.fsdecode(b"runs/\xff\x1b[2J")))
    assert "??[2J" in "\n".join(printed(lambda console: status.status([], False, console)))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_run_without_read_permission_is_listed(monkeypatch):
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        monkeypatch.chdir(name)
        run(Path("runs/closed").absolute(), checkpoint=40, loss=2.0)
        run(Path("runs/good").absolute(), checkpoint=40, loss=2.0)
        Path("runs/closed").chmod(0)
        os.seteuid(65534)
        try:
            closed, good = run_status.read_statuses(run_status.list_runs(), run_events.JobSchedulers())
        finally:
            os.seteuid(0)
    assert (good.name, good.damaged, good.step) == ("good", (), 40)
    assert closed.name == "closed"
    assert closed.damaged


@pytest.fixture
def known(in_sorter, tmp_path, monkeypatch):
    """A copy of a finished run."""
    shutil.copytree(in_sorter, tmp_path / "runs" / "bad")
    monkeypatch.chdir(tmp_path)
    return RunDir(Path("runs/bad"))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda bad: add(bad.metrics, '{"eval/loss": 1.0}'), "metrics.jsonl:43: damaged: step: missing"),
        (lambda bad: bad.facts.write_text("{}"), "facts.json: damaged: digest: missing"),
        (lambda bad: bad.facts.write_text("[]"), "facts.json: damaged: not a JSON object"),
    ],
)
def test_compare_refuses_a_damaged_run_in_one_line(known, printed, damage, what):
    damage(known)
    where = sum(1 for _ in known.metrics.open()) if "metrics" in what else 0
    with pytest.raises(UserError) as error:
        printed(lambda console: compare(["runs/bad", "runs/none"], console))
    first, second = str(error.value).splitlines()
    assert first.startswith(f"runs/bad/{what.replace('43', str(where))} (")
    assert second.startswith("runs/none: no run is there")


def test_a_metric_that_was_not_finite_is_none(known, printed):
    record = {"step": 99, "eval/loss": None, "eval/accuracy": 0.5, "data": "x"}
    add(known.metrics, json.dumps(record))
    assert "0.5000" in "\n".join(printed(lambda console: compare(["runs/bad"], console)))
    assert seeds.last_evaluation(known) == {"loss": None, "accuracy": 0.5}
    assert best_note(known, known.saved("best"), "best") is None


def test_a_metric_in_brackets_is_no_markup(known, printed):
    add(known.metrics, json.dumps({"step": 99, "eval/[x]": 0.5, "eval/a\x1b[2J": 0.25}))
    text = "\n".join(printed(lambda console: compare(["runs/bad"], console)))
    assert "[x]" in text
    assert "a?[2J" in text
