"""The shipped cluster profiles."""

import pytest

from launcher.config import load
from launcher.config.cluster import Cluster, Container, Links, Mail, Scratch, Slurm
from launcher.config.errors import UserError

PROFILES = load.shipped("cluster")


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_it_loads_and_is_named_as_its_file(file):
    cluster = load.cluster(file.stem).value
    assert (cluster.name, cluster.given) == (file.stem, file.stem)


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


def test_what_a_whole_profile_lacks_is_told_without_an_empty_key(tmp_path):
    file = tmp_path / "ours.yaml"
    file.write_text("kind: slurm\nnodes: 2\n", encoding="utf-8")
    with pytest.raises(UserError) as told:
        load.cluster(file)
    assert str(told.value).startswith(f"{file}:1: device, devices_per_node, memory_per_device: cannot be found")
