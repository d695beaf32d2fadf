import re

import pytest
import support

from launcher.config import document, load
from launcher.config.errors import UserError
from launcher.tools import sweep_grid


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "grid.yaml").write_text(text)
        return tmp_path / "grid.yaml"

    return write


def points(file):
    return [list(map(str, point)) for point in sweep_grid.read(file, "run")]


def test_a_map_is_a_product_whose_last_key_changes_fastest(written):
    assert points(written("optimizer.lr: [1e-4, 0.5]\nseed: [1, 2]\n")) == [
        ["optimizer.lr=0.0001", "seed=1", "name=run-0"],
        ["optimizer.lr=0.0001", "seed=2", "name=run-1"],
        ["optimizer.lr=0.5", "seed=1", "name=run-2"],
        ["optimizer.lr=0.5", "seed=2", "name=run-3"],
    ]


def test_a_list_is_its_points(written):
    assert points(written("- {seed: 1}\n- seed: 2\n  strategy: {kind: fsdp, shard: full}\n")) == [
        ["seed=1", "name=run-0"], ["seed=2", 'strategy={"kind": "fsdp", "shard": "full"}', "name=run-1"],
    ]  # fmt: skip


def test_values_of_every_type_arrive_as_they_are(written):
    values = ["$(id)", 'say "x": # no', None, True, 1e-9, 3, "yes", ["a", {"b": 1}], "ünï"]
    file = written("")
    support.write({"data.x": values}, file)
    read = [document.of_override(point[0]).value["data"]["x"] for point in sweep_grid.read(file, "run")]
    assert read == values


def test_every_mistake_is_told_with_its_line(written):
    file = written("optimizer.lr: 1e-4\nname: [a]\nseed: []\ncluster.nodes: [1, 2]\nseeds: [1]\n")
    with pytest.raises(UserError) as told:
        sweep_grid.read(file, "run")
    found = [str(problem).replace(f"{file}:", "") for problem in told.value.problems]
    assert sorted(found) == [
        "1: optimizer.lr: should be a list of the values that it takes",
        "2: name: each point is a run with a name of its own (seed: [1, 2, 3] for several seeds)",
        "3: seed: should be a list of the values that it takes",
        "4: cluster.nodes: all points are one job, of one cluster",
        "5: seeds: each point is a run with a name of its own (seed: [1, 2, 3] for several seeds)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "grid.yaml:1: should be a map"), ("5", "grid.yaml:1: should be a map"), ("[]", "yaml:1: should be a map"),
        ("- {seed: 1}\n- 5\n", "grid.yaml:2: should be a map of keys"), ("a: [1\n", "grid.yaml:2: not valid YAML"),
        ("".join(f"k{i}: [{', '.join('1' * 99)}]\n" for i in range(9)), f"grid.yaml: {99**9} points"),
        ("a: [1]\na: [2]\n", "grid.yaml:2: found duplicate key"),
        (f"seed: {list(range(501))}", re.escape("grid.yaml: 501 points (500 at the most)")),
    ],
)  # fmt: skip
def test_what_is_no_grid(written, text, told):
    with pytest.raises(UserError, match=told):
        sweep_grid.read(written(text), "run")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        sweep_grid.read(tmp_path / "no.yaml", "run")


def test_mistakes_of_the_recipe_are_told_once_at_the_line_of_the_grid(written, workspace):
    recipe = support.write(support.mlm())
    file = written("optimizer.lr: [fast, 1e-3]\nseed: [1, 2]\ntrain.stepz: [5]\n")
    with pytest.raises(UserError) as told:
        sweep_grid.map_points(sweep_grid.read(file, "run"), lambda point: load.recipe(recipe, point))
    found = sorted(str(problem) for problem in told.value.problems)
    assert len(found) == 2
    assert found[0].startswith(f"{file}:1: optimizer.lr: ") and found[1].startswith(
        f"{file}:3: train.stepz: unknown key"
    )
