"""`launcher sweep` with a cluster of kind slurm: a job array on a real Slurm, and the table when it has ended."""

import pytest
import support


@pytest.fixture
def sweep(lab, workspace, monkeypatch):
    """The command, in a folder with a small recipe and a profile of the lab."""
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    support.write(support.small(data__validation={"fraction": 0.2}), "recipe.yaml")
    profile = {
        "name": "lab", "kind": "slurm", "nodes": 1, "devices_per_node": 1, "device": "cpu", "memory_per_device": 2,
        "slurm": {"time": 10, "memory_per_node": "1G"},
    }  # fmt: skip
    support.write(profile, "lab.yaml")

    def call(*arguments, code=0):
        return support.launcher("sweep", "recipe.yaml", "--cluster", "lab.yaml", *arguments, code=code)

    return call


def test_random_points_are_one_job_array_and_then_a_table(sweep, lab, workspace):
    """It alone proves that an array's runs are those of the sweep, by the real Slurm."""
    words = ("--random", "optimizer.lr=log:1e-4:1e-1", "--trials", 3)
    begun = sweep(*words)
    id = begun.stdout.split()[1].rstrip(":")
    assert "#SBATCH --array=0-2\n" in (workspace / "runs/tiny/jobs/submit-1.sbatch").read_text()
    assert "3 runs left to train" in begun.stderr and begun.stdout.count("pending") == 3
    sweep(*words)  # what waits or runs is not submitted again
    for n in range(3):
        assert lab.over(f"{id}_{n}", 120)["JobState"] == "COMPLETED", lab.log(f"{id}_{n}")
    assert len(list((workspace / "runs/tiny/jobs").glob("*.sbatch"))) == 1
    done = sweep(*words)
    reached = {f"tiny-{n}": support.evaluations(f"runs/tiny-{n}")[6]["eval/mse"] for n in range(3)}
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("tiny-")]
    assert [row[0] for row in rows] == sorted(reached, key=reached.get) and rows[0][-1] == "best"
    assert (workspace / "sweeps/tiny/sweep.png").is_file() and (workspace / "sweeps/tiny/best.yaml").is_file()


def test_optuna_is_refused_with_the_reason(sweep, workspace):
    refused = sweep("--optuna", "optimizer.lr=log:1e-4:1e-1", "--trials", 3, code=2)
    assert "a job array starts all of them at once" in refused.stderr and not (workspace / "runs").exists()
