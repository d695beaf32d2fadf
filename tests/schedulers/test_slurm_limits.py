import pytest
import support

from launcher.config import load, override_keys
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe


def found(every=None, **slurm):
    profile = {"kind": "slurm", "device": "cuda", "devices_per_node": 4, "memory_per_device": 80, "slurm": slurm}
    recipe = support.mlm(checkpoint={"every": every})
    cluster = Cluster.model_validate(profile)
    return [str(what) for what in cluster.scheduler.problems(Recipe.model_validate(recipe), cluster)]


def test_an_ordinary_profile_has_no_problem():
    assert found("10m", time="1:00:00") == found("2h", time="UNLIMITED") == found(100, time=5) == found("2h") == []


def test_a_time_limit_shorter_than_a_checkpoint_interval():
    assert found("1h", time="1:00:00") == [
        "checkpoint.every: 1h is more than the 3480 s that a job trains for (1:00:00 of slurm.time, less slurm.leave): "
        "a job that dies would have saved nothing"
    ]


def test_nothing_left_to_train_in():
    assert found(time=2) == [
        "--cluster local: slurm.leave: the run would leave 120 s before the end of 120 s: no time is left to train "
        "(cluster.slurm.leave=40, or a longer slurm.time)"
    ]


@pytest.mark.parametrize("gres", ["gpu:a100:2", "gpu:2", "gpu", "gpu:a100"])
def test_more_devices_than_are_requested(gres):
    assert "4 ranks on a node that is asked for" in found(gres=gres)[0]


@pytest.mark.parametrize("gres", ["gpu:a100:4", "gpu:8", "auto", "gpus_per_node", "none", "gpu:a100:1,gpu:b:3"])
def test_as_many_devices_as_are_requested(gres):
    assert found(gres=gres) == []


def test_options_are_single_and_not_the_scripts_own():
    assert found(options=["--comment=a b", "-H", "--licenses=x:1"]) == []
    assert found(options=["--reservation x", "hold", "--output=x"]) == [
        "--cluster local: slurm.options: '--reservation x': should be as in --comment=text, each for itself",
        "--cluster local: slurm.options: 'hold': should be as in --comment=text, each for itself",
        "--cluster local: slurm.options: --output is set by the launcher",
    ]
    assert found(options=["-N4"]) == ["--cluster local: slurm.options: -N is set by the launcher"]


# Overrides of the cluster beside those of the recipe


def test_overrides_of_recipe_and_cluster_are_separated():
    recipe, cluster = override_keys.parted(["seed=1", "cluster.slurm.time=30", "train.steps=2", " cluster.nodes=2"])
    assert (recipe, cluster) == (["seed=1", "train.steps=2"], ["cluster.slurm.time=30", " cluster.nodes=2"])


def test_an_override_of_the_cluster_is_read_without_its_prefix_and_reported_with_it(tmp_path):
    file = support.write(
        {"kind": "slurm", "device": "cpu", "devices_per_node": 1, "memory_per_device": 1}, tmp_path / "c.yaml"
    )
    given = load.cluster(file, ["cluster.slurm.time=30", "max_restarts=2"]).value
    assert (given.scheduler.time, given.max_restarts, given.overrides) == ("30", 2, ("cluster.slurm.time=30",))
    with pytest.raises(Exception, match=r"^'cluster\.slurm\.tme=30': slurm\.tme: unknown key"):
        load.cluster(file, ["cluster.slurm.tme=30"])
