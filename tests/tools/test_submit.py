"""Refusals, output and records of `launcher submit`, with a stand-in for Slurm. tests/slurm has jobs that run."""

from pathlib import Path

import pytest
import support
from rich.console import Console

from launcher.config import load, override_keys
from launcher.config.errors import UserError
from launcher.schedulers import slurm as slurm_kind
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir
from launcher.tools import submit as tool

PROFILE = {
    "name": "lab", "kind": "slurm", "nodes": 2, "device": "cpu", "devices_per_node": 2, "memory_per_device": 8,
    "slurm": {"time": 10},
}  # fmt: skip


SPOOL = Path(__file__).parent.parent / "schedulers" / "spool_scheduler.py"


@pytest.fixture
def submit(workspace):
    recipe = support.write(support.mlm())
    support.write(PROFILE, "lab.yaml")

    def call(*overrides, cluster="lab.yaml", grid=None, dry_run=False):
        ours, theirs = override_keys.parted(overrides)
        profile = load.cluster(cluster, theirs).value
        tool.check_queue(profile)
        tool.submit(load.recipe(recipe, ours), profile, grid, dry_run, Console(stderr=True, width=200))

    return call


def test_a_dry_run_prints_the_script_alone_and_writes_nothing(submit, workspace, capsys):
    before = support.tree(workspace)
    submit("cluster.slurm.time=30", dry_run=True)
    shown = capsys.readouterr()
    assert shown.out.startswith("#!/bin/bash\n") and shown.out.endswith('exit "$rc"\n')
    assert "#SBATCH --time=30\n" in shown.out and f"run={workspace}/runs/tiny\n" in shown.out
    assert "4 ranks (2 nodes x 2)" in shown.err
    assert "launcher submit recipe.yaml --cluster lab.yaml cluster.slurm.time=30" in shown.err
    assert support.tree(workspace) == before


def test_a_dry_run_of_a_sweep(submit, workspace, capsys):
    (workspace / "grid.yaml").write_text("optimizer.lr: [1e-3, 1e-4]\nseed: [1, 2, 3]\n")
    before = support.tree(workspace)
    submit(grid=workspace / "grid.yaml", dry_run=True)
    shown = capsys.readouterr()
    assert "#SBATCH --array=0-5\n" in shown.out and "#SBATCH --job-name=tiny\n" in shown.out
    assert f"run={workspace}/runs/tiny-$SLURM_ARRAY_TASK_ID\n" in shown.out
    assert "the first of 6 runs" in shown.err
    assert support.tree(workspace) == before


def test_a_cluster_without_a_queue_is_refused(submit):
    with pytest.raises(UserError, match=r"^--cluster local: of kind local, where there is no queue"):
        submit(cluster="local")


def test_the_profiles_with_a_queue_are_listed(submit, workspace):
    listed = r"of kind slurm there are: lab\.yaml, slurm-a100-8x, slurm-cpu, slurm-example, slurm-h100-8x\)$"
    with pytest.raises(UserError, match=listed):
        submit(cluster="local")
    assert str(tool.missing_cluster()).startswith(
        "--cluster: missing (of kind slurm there are: lab.yaml, slurm-a100-8x"
    )


def test_the_maximum_running_time_is_shown(submit, capsys):
    submit("cluster.slurm.max_requeues=4", "cluster.slurm.time=1-00:00:00", dry_run=True)
    line = "until all steps are done the job may start 5 times, 5.0 days of running time (--max-requeues)"
    assert line in capsys.readouterr().err
    submit("cluster.slurm.requeue=never", dry_run=True)
    assert "may start" not in capsys.readouterr().err


def test_max_requeues_is_part_of_the_command_and_of_the_section_of_any_kind(submit, workspace):
    profile, recipe = tool.load_profile("lab.yaml", ["seed=1", "cluster.slurm.time=30"], 4)
    assert (profile.scheduler.max_requeues, recipe) == (4, ["seed=1"])
    assert profile.overrides == ("cluster.slurm.time=30", "cluster.slurm.max_requeues=4")
    text = Path(slurm_kind.__file__).read_text(encoding="utf-8").replace('"slurm"', '"own.lab"')
    support.plugin("lab", text)
    support.write({**PROFILE, "kind": "own.lab", "slurm": None, "lab": {}}, "own.yaml")
    assert tool.load_profile("own.yaml", [], 4)[0].scheduler.max_requeues == 4
    support.plugin("spool", SPOOL.read_text(encoding="utf-8"))
    section = {"folder": "queue", "hosts": ["a", "b"]}
    support.write({**PROFILE, "kind": "own.spool", "slurm": None, "spool": section}, "spool.yaml")
    with pytest.raises(UserError, match=r"^--max-requeues: a cluster of kind own.spool has no key spool.max_requeues"):
        tool.load_profile("spool.yaml", [], 4)
    with pytest.raises(UserError, match=r"^--cluster local: of kind local, where there is no queue"):
        tool.load_profile("local", [], 4)


def test_max_running_limits_an_array(submit, workspace, capsys):
    (workspace / "grid.yaml").write_text("seed: [1, 2, 3]\n")
    submit("cluster.slurm.max_running=2", grid=workspace / "grid.yaml", dry_run=True)
    assert "#SBATCH --array=0-2%2\n" in capsys.readouterr().out


def test_unknown_memory_is_not_checked_and_the_plan_says_so_once(submit, capsys):
    submit("cluster.memory_per_device=auto", dry_run=True)
    assert capsys.readouterr().err.count("not checked: memory_per_device is unknown") == 1


def test_launcher_run_refuses_a_cluster_with_a_queue(workspace):
    support.write(support.mlm())
    support.write(PROFILE, "lab.yaml")
    words = ("--max-restarts", 2, "--cluster", "lab.yaml", "cluster.slurm.time=30", "data.train={kind: csv}")
    done = support.launcher("run", "recipe.yaml", *words, code=2)
    command = "launcher submit recipe.yaml --cluster lab.yaml 'data.train={kind: csv}' cluster.slurm.time=30"
    told = f"({command} cluster.max_restarts=2)"
    assert done.stderr == f"--cluster lab.yaml: of kind slurm, where runs wait for their turn {told}\n"


def test_a_run_in_an_allocation_of_several_nodes_says_that_it_uses_one(workspace, monkeypatch):
    support.write(support.mlm(train__steps=0))  # a mistake, so that nothing is trained
    told = (
        "note: this allocation has 2 nodes, and this run uses the one it is on "
        "(launcher submit, or srun python -m launcher.worker, uses all)"
    )
    for nodes, said in (("2", 1), ("1", 0)):
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
        assert support.launcher("run", "recipe.yaml", code=2).stderr.splitlines().count(told) == said


def test_several_seeds_are_a_sweep(submit):
    with pytest.raises(UserError, match=r"^seeds: 3, and a job trains one \(--grid FILE"):
        submit("seeds=3")


def test_data_is_prepared_in_the_shared_folder(submit, slurm, workspace, monkeypatch, capsys):
    monkeypatch.delenv("LAUNCHER_CACHE")
    submit(f"cluster.scratch.shared={workspace}/shared", dry_run=True)
    assert f"export LAUNCHER_CACHE={workspace}/shared\n" in capsys.readouterr().out
    assert not (workspace / "shared").exists()
    submit(f"cluster.scratch.shared={workspace}/shared")
    assert list((workspace / "shared/prepared").iterdir())
    monkeypatch.delenv("LAUNCHER_CACHE")
    with pytest.raises(UserError, match=r"scratch.shared: /proc/no: cannot be written from here"):
        submit("name=other", "cluster.scratch.shared=/proc/no")


def test_a_machine_without_sbatch_is_reported_and_nothing_is_left(submit, workspace, monkeypatch):
    monkeypatch.setenv("PATH", str(workspace))
    with pytest.raises(UserError, match=r"^sbatch: not found"):
        submit()
    assert not (workspace / "runs").exists()


def test_limits_are_reported_with_mistakes_of_the_recipe(submit):
    with pytest.raises(UserError) as told:
        submit("checkpoint.every=1h", "train.max_tokens=5", "cluster.slurm.options=[oops]")
    found = "\n".join(map(str, told.value.problems))
    assert "'checkpoint.every=1h': checkpoint.every: 1h is more than the 480 s" in found
    assert "'train.max_tokens=5': train.max_tokens: 5 is below one sample" in found
    assert "--cluster lab.yaml: slurm.options: 'oops'" in found


SAYS = """#!/bin/sh
case "$0 $*" in
*sbatch*--test-only*) echo "sbatch: Job 7 to start at once" >&2 ;;
*sbatch*) [ -z "$REFUSED" ] || { echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }; echo "12;lab" ;;
*scontrol*) printf 'JobId=12 JobName=%s\\n   JobState=%s Reason=None\\n' "${NAME:-tiny}" "${STATE:-COMPLETED}" ;;
esac
"""


@pytest.fixture
def slurm(workspace, monkeypatch):
    """A stand-in for Slurm that accepts every job."""
    (workspace / "bin").mkdir()
    for name in ("sbatch", "scontrol"):
        (workspace / "bin" / name).write_text(SAYS)
        (workspace / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{workspace / 'bin'}:/usr/bin:/bin")


def test_a_submitted_job_is_recorded(submit, slurm, workspace, capsys):
    submit("cluster.slurm.max_requeues=4")
    shown = capsys.readouterr()
    assert shown.out == "job 12: runs/tiny/jobs/submit-1.sbatch, runs/tiny/logs/job-12.log\n"
    assert "Slurm: the job is to start at once" in shown.err
    folder = RunDir(workspace / "runs/tiny")
    (event,) = job_log.read(folder)
    assert {k: event[k] for k in ("event", "job", "cluster", "script")} == {
        "event": "submitted", "job": "12", "cluster": "lab", "script": "runs/tiny/jobs/submit-1.sbatch",
    }  # fmt: skip
    assert "restarts >= 4" in (folder.jobs / "submit-1.sbatch").read_text()
    assert load.stored_cluster(folder.cluster).value.scheduler.max_requeues == 4


def test_the_next_script_has_the_next_number(submit, slurm, workspace):
    submit()
    submit()
    assert sorted(file.name for file in (workspace / "runs/tiny/jobs").iterdir()) == [
        "submit-1.sbatch",
        "submit-2.sbatch",
    ]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING"])
def test_a_run_whose_job_is_alive_is_refused(submit, slurm, monkeypatch, workspace, state):
    submit()
    monkeypatch.setenv("STATE", state)
    with pytest.raises(UserError, match=rf"^runs/tiny: job 12 is {state.lower()} \(launcher cancel runs/tiny ends it"):
        submit()


def test_another_job_with_the_same_id_does_not_block_a_submission(submit, slurm, monkeypatch, workspace):
    submit()
    monkeypatch.setenv("STATE", "RUNNING")
    monkeypatch.setenv("NAME", "another")
    submit()
    assert len(job_log.read(RunDir(workspace / "runs/tiny"))) == 2


def test_one_of_two_simultaneous_submits_is_accepted(submit, slurm, monkeypatch, workspace):
    check, before = tool.run_setup.validate, {}

    def meanwhile(*arguments):
        """Another goes in after this one was not refused."""
        checked = check(*arguments)
        support.launcher("submit", "recipe.yaml", "--cluster", "lab.yaml")
        before.update(support.tree(workspace / "runs"))
        return checked

    monkeypatch.setenv("STATE", "PENDING")
    monkeypatch.setattr(tool.run_setup, "validate", meanwhile)
    with pytest.raises(UserError, match=r"^runs/tiny: job 12 is pending"):
        submit("optimizer.lr=0.5")
    assert before and support.tree(workspace / "runs") == before  # the other's folder is as it was
    (event,) = job_log.read(RunDir(workspace / "runs/tiny"))
    assert event["event"] == "submitted"


def test_a_job_that_sbatch_refuses_leaves_nothing(submit, slurm, monkeypatch, workspace):
    monkeypatch.setenv("REFUSED", "1")
    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        submit()
    assert not (workspace / "runs/tiny").exists()
    monkeypatch.delenv("REFUSED")
    submit()
    before = support.tree(workspace / "runs/tiny/jobs")
    monkeypatch.setenv("REFUSED", "1")
    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        submit()
    assert support.tree(workspace / "runs/tiny/jobs") == before


def test_each_point_of_a_sweep_has_a_folder_and_its_own_recipe(submit, slurm, workspace):
    (workspace / "grid.yaml").write_text("- {seed: 4}\n- {optimizer.lr: 0.5}\n")
    submit(grid=workspace / "grid.yaml")
    recipes = [load.recipe(workspace / f"runs/tiny-{i}/recipe.yaml").value for i in (0, 1)]
    assert [(r.name, r.seed, r.optimizer.lr) for r in recipes] == [("tiny-0", 4, 1e-3), ("tiny-1", 3, 0.5)]
    told = [job_log.read(RunDir(workspace / f"runs/tiny-{i}"))[0] for i in (0, 1)]
    assert [event["job"] for event in told] == ["12_0", "12_1"]
    assert {event["script"] for event in told} == {"runs/tiny/jobs/submit-1.sbatch"}
    assert (
        '"tiny-1": [\n   "optimizer.lr=0.5",\n   "name=tiny-1"\n  ]' in (workspace / "runs/tiny/sweep.json").read_text()
    )
