"""`launcher submit` as a user types it, on a real Slurm. tests/slurm/test_jobs.py has what becomes of the jobs."""

import json

import pytest
import support

from launcher.storage import job_log
from launcher.storage.run_dir import RunDir


@pytest.fixture
def submit(lab, workspace, monkeypatch):
    """The command, in a folder with a small recipe and a profile of the lab."""
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    support.write(support.small(), "recipe.yaml")
    profile = {
        "name": "lab", "kind": "slurm", "nodes": 1, "devices_per_node": 2, "device": "cpu", "memory_per_device": 4,
        "slurm": {"time": 10, "memory_per_node": "2G"},
    }  # fmt: skip
    support.write(profile, "lab.yaml")

    def call(*arguments, code=0):
        return support.launcher("submit", "recipe.yaml", "--cluster", "lab.yaml", *arguments, code=code)

    return call


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("cluster.slurm.partition=nowhere", "invalid partition specified: nowhere"),
        ("cluster.slurm={partition: physics, account: chemistry}", "Invalid account or account/partition combination"),
        ("cluster.slurm.gres=gpu:9", "Requested node configuration is not available"),
        ("cluster.nodes=4", "Node count specification invalid"),
        ("cluster.slurm.constraint=a$(touch PWNED)b", "Invalid feature specification"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words_and_leaves_nothing(submit, workspace, lab, option, told):
    done = submit(option, code=2)
    refused = done.stderr.partition("Slurm refuses this job: ")[2]
    assert told in refused and refused.endswith("(--cluster lab.yaml)\n") and done.stdout == ""
    assert not (workspace / "runs").exists() and not list(workspace.rglob("PWNED"))
    assert lab.run("squeue", "--noheader") == ""


def test_ranks_on_gpus_share_the_cores_that_belong_to_them(submit):
    """Of 4 cores and 4 GPUs of a node of the lab, by its own answer."""
    done = submit("cluster.device=cuda", "--dry-run")
    assert "#SBATCH --gres=gpu:2\n" in done.stdout
    assert "#SBATCH --cpus-per-task=2\n" in done.stdout


def test_a_run_that_waits_is_not_submitted_again_and_one_that_is_done_is_not_either(submit, lab, workspace):
    first = submit("cluster.slurm.options=[--begin=now+1hour]")
    assert "to start at" in first.stderr
    id = first.stdout.split()[1].rstrip(":")
    refused = submit(code=2)
    assert refused.stderr.splitlines()[-1] == (
        f"runs/tiny: job {id} is pending (launcher cancel runs/tiny ends it, launcher status runs/tiny shows it)"
    )
    lab.run("scontrol", "update", f"JobId={id}", "StartTime=now")
    assert lab.over(id, 120)["JobState"] == "COMPLETED", lab.log(id)
    assert submit().stdout == "runs/tiny: all 6 steps are done (another name starts another run)\n"


def test_a_sweep_trains_each_point_in_its_own_folder(submit, lab, workspace):
    (workspace / "grid.yaml").write_text("seed: [5, 6]\n")
    said = submit("--grid", "grid.yaml").stdout
    id = said.split()[1].rstrip(":")
    for i, seed in enumerate((5, 6)):
        assert lab.over(f"{id}_{i}", 120)["JobState"] == "COMPLETED", lab.log(f"{id}_{i}")
        folder = RunDir(workspace / f"runs/tiny-{i}")
        assert len(support.steps(folder.path)) == 6
        assert f"seed: {seed}\n" in folder.recipe.read_text()
        assert [event["job"] for event in job_log.read(folder)] == [f"{id}_{i}"] * 3
    assert support.steps("runs/tiny-0")[1]["data"] != support.steps("runs/tiny-1")[1]["data"]
    assert list(json.loads((workspace / "runs/tiny/sweep.json").read_text())["runs"]) == ["tiny-0", "tiny-1"]
    again = submit("--grid", "grid.yaml").stdout
    assert again.count("all 6 steps are done") == 2
    (workspace / "grid.yaml").write_text("seed: [5, 6, 7]\n")
    more = submit("--grid", "grid.yaml").stdout.splitlines()[-1].split()[1].rstrip(":")
    assert lab.over(f"{more}_2", 120)["JobState"] == "COMPLETED"
    assert "#SBATCH --array=2\n" in (workspace / "runs/tiny/jobs/submit-2.sbatch").read_text()


def test_a_sweep_that_waits_is_not_submitted_again(submit, lab, workspace):
    (workspace / "grid.yaml").write_text("seed: [5, 6]\n")
    id = submit("--grid", "grid.yaml", "cluster.slurm.options=[--begin=now+1hour]").stdout.split()[1].rstrip(":")
    refused = submit("--grid", "grid.yaml", code=2)
    assert refused.stderr.splitlines()[-1].startswith(f"runs/tiny-0: job {id}_0 is pending (launcher cancel")
    told = json.loads(support.launcher("status", "runs/tiny-1", "--json").stdout)[0]
    assert told["state"]["name"] == "pending"
    support.launcher("cancel", "runs/tiny-1")
    lab.run("scontrol", "update", f"JobId={id}", "StartTime=now")
    assert lab.over(f"{id}_0", 120)["JobState"] == "COMPLETED", lab.log(f"{id}_0")
    assert not support.steps("runs/tiny-1")  # that task alone was cancelled


def test_a_folder_with_a_strange_name(submit, lab, workspace, monkeypatch):
    strange = workspace / 'it\'s "here" $(touch PWNED) & there; #1'
    strange.mkdir()
    for name in ("recipe.yaml", "lab.yaml", "corpus.txt"):
        (workspace / name).rename(strange / name)
    monkeypatch.chdir(strange)
    id = submit().stdout.split()[1].rstrip(":")
    ended = lab.over(id, 120)
    assert ended["JobState"] == "COMPLETED", ended
    assert len(support.steps("runs/tiny")) == 6 and not list(workspace.rglob("PWNED"))
