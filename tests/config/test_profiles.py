"""The shipped cluster profiles."""

import pytest

from launcher.config import load
from launcher.config.cluster import Cluster, Links, Scratch
from launcher.config.errors import UserError
from launcher.schedulers.slurm import Config as Slurm
from launcher.schedulers.slurm import Container, Mail

PROFILES = load.shipped("cluster")


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_it_loads_and_is_named_as_its_file(file):
    cluster = load.cluster(file.stem).value
    assert (cluster.name, cluster.reference) == (file.stem, file.stem)


def test_there_are_these_and_the_index_names_them():
    names = {file.stem for file in PROFILES}
    assert names == {
        "local", "workstation-8gpu", "slurm-example", "slurm-a100-8x", "slurm-h100-8x", "slurm-cpu", "two-hosts-ssh",
    }  # fmt: skip
    index = (PROFILES[0].parent / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}.yaml)" in index for name in names)


def test_the_example_has_every_key_of_slurm_with_a_word_on_it():
    file = next(file for file in PROFILES if file.stem == "slurm-example")
    text = file.read_text(encoding="utf-8").split("\nkind: slurm", 1)[1]
    keys = {*Cluster.model_fields, *Slurm.model_fields, *Scratch.model_fields, *Links.model_fields}
    keys = (keys | {*Container.model_fields, *Mail.model_fields}) - {"name", "kind"}
    lines = {line.strip().lstrip("# ").partition(":")[0]: line for line in text.splitlines()}
    assert keys <= set(lines)
    groups = {"slurm", "env", "scratch", "mail", "ssh", "user", "type"}
    assert [key for key in keys - groups if "#" not in lines[key]] == []


@pytest.mark.parametrize(("name", "tflops", "within", "between"), [
    ("slurm-a100-8x", 312, 300, 25), ("slurm-h100-8x", 989, 450, 50),
])  # fmt: skip
def test_figures_are_those_of_the_datasheets(name, tflops, within, between):
    cluster = load.cluster(name).value
    assert (cluster.peak_tflops, cluster.links.within_node, cluster.links.between_nodes) == (tflops, within, between)


def test_what_a_whole_profile_lacks_is_reported_without_an_empty_key(tmp_path):
    file = tmp_path / "ours.yaml"
    file.write_text("kind: slurm\nnodes: 2\n", encoding="utf-8")
    with pytest.raises(UserError) as told:
        load.cluster(file)
    assert str(told.value).startswith(f"{file}:1: kind: device, devices_per_node: cannot be found")


def profile(**slurm):
    keys = {"kind": "slurm", "device": "cuda", "devices_per_node": 8}
    return Cluster.model_validate({**keys, **slurm.pop("top", {}), "slurm": slurm})


def test_variables_of_this_shell_are_filled_into_paths_and_the_environment(monkeypatch):
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("HOME", "/home/ada")
    container = {"kind": "apptainer", "image": "$HOME/x.sif", "mounts": ["/data/${USER}:/d"]}
    env = {"HF_HOME": "/w/$USER", "P": "5$", "Q": "$$HOME"}
    top = {"scratch": {"shared": "/scratch/$USER/cache", "local": "~/tmp"}, "env": env}
    made = profile(top=top, container=container, python="~/venv/bin/python")
    assert (made.scratch.shared, made.scratch.local) == ("/scratch/ada/cache", "/home/ada/tmp")
    assert made.env == {"HF_HOME": "/w/ada", "P": "5$", "Q": "$HOME"}
    assert (made.scheduler.container.image, made.scheduler.container.mounts) == ("/home/ada/x.sif", ["/data/ada:/d"])
    assert made.scheduler.python == "/home/ada/venv/bin/python"


def test_a_profile_is_filled_in_once(monkeypatch, tmp_path):
    """On a node, where variables have other values or none, that of the run's folder is read as it is."""
    monkeypatch.setenv("ODD", "a$b")
    made = profile(top={"env": {"P": "$ODD", "Q": "$$NOT_SET"}})
    load.dump(made, tmp_path / "cluster.yaml")
    monkeypatch.delenv("ODD")
    assert load.stored_cluster(tmp_path / "cluster.yaml").value.env == {"P": "a$b", "Q": "$NOT_SET"}


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (
            {"top": {"scratch": {"local": "/tmp/$SLURM_JOB_ID"}}},
            r"\$SLURM_JOB_ID is not set here \(variables are filled in",
        ),
        ({"top": {"env": {"A": "${NOT_SET}/x"}}}, r"\$NOT_SET is not set here"),
        ({"top": {"env": {"A": "${MY_API_KEY}"}}}, r"\$MY_API_KEY would stand in files of the run"),
        ({"account": "$USER"}, r"\$USER would stay as it is: Slurm expands no variables"),
        ({"account": "$$A $USER"}, r"\$USER would stay as it is"),
        ({"options": ["--comment=${HOME}"]}, r"\$\{HOME\} would stay as it is"),
    ],
)
def test_a_variable_that_nothing_would_expand_is_refused(monkeypatch, keys, what):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ValueError, match=what):
        profile(**keys)


def test_the_memory_of_devices_elsewhere_may_be_unknown():
    assert profile().memory_per_device == "auto"
