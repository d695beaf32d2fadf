"""`launcher scaling`: tables of steps on devices that are not here, and mistakes in options."""

import json
from pathlib import Path

import pytest
import support

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.tools import scaling

WIDE = {"train__global_batch": 64, "train__precision": "bf16"}


def test_tables_of_a_recipe(workspace, monkeypatch):
    """Both kinds of scaling; more devices than samples are named, not shown; the table fits 80 columns."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(Path("cache").absolute()))  # other tests prepare the same data
    file = support.write(support.mlm(**WIDE))
    shown = support.launcher("scaling", file, "--gpu", "H100", "--devices", "8,16,128").stdout
    lines = shown.splitlines()
    assert lines[0].startswith("tiny on H100, 8 a node: BertForMaskedLM of ")
    assert lines[0].endswith("32 tokens a sample, the longest: known after `launcher prepare`")
    assert "note: 128 devices: more devices than samples" in lines
    tables = [line.split() for line in lines if "%" in line]
    assert [row[:2] for row in tables] == [["8", "64"], ["16", "64"], ["8", "64"], ["16", "128"], ["128", "1,024"]]
    assert all(len(line) <= 80 for line in lines[1:])

    found = json.loads(support.launcher("scaling", file, "--gpu", "H100", "--devices", "8,128", "--json").stdout)
    assert found["strong"][1] == {"devices": 128, "batch": 64, "problem": "more devices than samples"}
    row = found["weak"][1]
    assert row["seconds"] == pytest.approx(row["arithmetic"] + row["memory"] + row["communication"] + row["host"])
    assert row["bound"] == "host"
    assert row["efficiency"] == pytest.approx(row["tokens_per_second"] / 16 / found["weak"][0]["tokens_per_second"])


def test_lengths_are_those_of_prepared_data(workspace):
    file = support.write(support.mlm(**WIDE))
    support.launcher("prepare", file)
    first = support.launcher("scaling", file, "--cluster", "slurm-h100-8x", "--devices", "8").stdout.splitlines()[0]
    mean = float(first.rsplit(", ", 1)[1].split()[0])
    assert 10 < mean < 32


def test_mistakes_name_what_is_missing(workspace):
    file = support.write(support.mlm(**WIDE))
    asked = (
        (["--gpu", "H10"], "--gpu H10: unknown kind (did you mean H100?)"),
        ([], "the profile local lacks peak_tflops, memory_bandwidth, links.between_nodes (write them into it, or name"),
        (["--gpu", "V100"], "train.precision: bf16: no peak is known for V100"),
    )
    for words, message in asked:
        failed = support.launcher("scaling", file, *words, code=2)
        assert message in failed.stderr


@pytest.mark.parametrize("text", ["", "8,x", "0,8", "-1"])
def test_devices_are_numbers(text):
    with pytest.raises(UserError, match="should be numbers of devices"):
        scaling.counts(text)


def test_numbers_of_devices_are_sorted():
    assert scaling.counts("64,8, 8") == [8, 64]


def test_a_layout_that_does_not_fit_is_noted(workspace):
    """On devices with a thousandth of a GiB."""
    file = support.write(support.mlm(**WIDE))
    tight = {"cluster.memory_per_device": "0.001"}
    words = [f"{key}={value}" for key, value in tight.items()]
    shown = support.launcher("scaling", file, "--gpu", "A100", "--devices", "8", *words).stdout
    assert "note: 8 devices: does not fit: about " in shown


def test_a_profile_decides_devices_of_a_node():
    assert scaling.target(Cluster.model_validate({"devices_per_node": 4}), "A100").per_node == 4
    assert scaling.target(Cluster(), "NVIDIA A100-SXM4-40GB").kind is scaling.KINDS["A100-40GB"]


def test_a_plan_has_the_same_prediction(workspace):
    file = support.write(support.mlm(**WIDE))
    plan = json.loads(support.launcher("plan", file, "--cluster", "slurm-h100-8x", "--json").stdout)
    row = json.loads(
        support.launcher("scaling", file, "--cluster", "slurm-h100-8x", "--devices", "16", "--json").stdout
    )["strong"][0]
    assert plan["predicted"]["communication"] == pytest.approx(row["communication"])
    shown = support.launcher("plan", file, "--cluster", "slurm-h100-8x").stdout
    assert f"{row['seconds'] * 1e3:,.1f} ms a step (arithmetic " in " ".join(shown.split())
    assert json.loads(support.launcher("plan", file, "--json").stdout)["predicted"] is None
