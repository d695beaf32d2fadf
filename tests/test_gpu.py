"""The checks of `python -m benchmarks.gpu` whose results do not depend on speed, on a machine with an accelerator."""

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import harness, results
from benchmarks.gpu.harness import Check, Machine, Mismatch, Unavailable

_EIGHT_MINUTES = 480
_EXACT = [check for check in gpu.CHECKS if check.exact]


@pytest.mark.gpu
@pytest.mark.parametrize("check", _EXACT, ids=[check.name for check in _EXACT])
def test_on_an_accelerator(check, tmp_path, monkeypatch):
    kind = gpu.accelerator()
    if kind is None:
        pytest.fail("pytest -m gpu needs an accelerator (python -m benchmarks.gpu --rehearse does not)")
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    result = harness.run(check, Machine(kind, tmp_path))
    if result.status == "skipped":
        pytest.skip(result.reason)
    assert result.status == "passed", result.reason


def test_the_checks_take_eight_minutes_at_most():
    assert sum(check.seconds for check in gpu.CHECKS) <= _EIGHT_MINUTES
    assert len({check.name for check in gpu.CHECKS}) == len(gpu.CHECKS)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Mismatch("losses differ", {"loss": 2.0}), "failed", "losses differ"),
        (Unavailable("no accelerator"), "skipped", "no accelerator"),
        (RuntimeError("out of luck"), "failed", "RuntimeError: out of luck"),
    ],
)
def test_an_error_is_a_result(error, status, reason, tmp_path):
    def run(machine):
        raise error

    result = harness.run_here(Check("made-up", "", 1, run), Machine("cpu", tmp_path))
    assert (result.status, result.reason) == (status, reason)
    assert '"check": "made-up"' in result.line()


def test_a_check_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    """It alone starts the command of a check: of the one that skips itself without an accelerator."""
    check = gpu.selected("synchronizations")[0]
    result = harness.run(check, Machine("cpu", tmp_path))
    assert (result.status, result.reason) == ("skipped", "no accelerator")


def test_a_check_ends_at_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_REHEARSAL_FACTOR", 0)
    result = harness.run(gpu.selected("devices")[0], Machine("cpu", tmp_path))
    assert (result.status, result.reason.partition(":")[0]) == ("failed", "not done after 0 s")


def test_the_failure_of_a_run_stands_after_its_plan():
    sentence = "rank 0 failed at step 1: OutOfMemory: cuda:0 on a ran out of memory: lower train.max_tokens (now 9)"
    assert results.failure_of(f"run  x in runs/x\nnote: one\n{sentence}\n  its log: x\n") == sentence
    assert results.failure_of("run  x in runs/x\n") == ""


def test_unknown_checks_are_named(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.selected("devices,no-such")
    assert ended.value.code == 2
    assert "no-such: no such check (there are environment, fork-server" in capsys.readouterr().err
