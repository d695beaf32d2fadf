"""Samples that are no texts, from their source to an evaluation, through the commands as they are typed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import support
from safetensors.torch import load_file
from support import image_files, ranks, strategy_steps
from typer.testing import CliRunner

from launcher import cli
from launcher.config import load
from launcher.config.errors import UserError
from launcher.prepare import run_setup

RESNET = {
    "kind": "config", "type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
    "layer_type": "basic", "batch_norm": "group",
}  # fmt: skip


def digits(**changes):
    recipe = {
        "name": "digits",
        "seed": 3,
        "model": {"kind": "small", "type": "mlp", "hidden": [64]},
        "data": {"train": {"kind": "digits"}, "validation": {"fraction": 0.2}},
        "task": {"kind": "image_classification"},
        "train": {"global_batch": 64, "steps": 80},
        "optimizer": {"kind": "adamw", "lr": 1.0e-2},
        "sinks": ["jsonl"],
    }
    return support.changed(recipe, **changes)


def folder(**changes):
    """Of pictures/: a small ResNet."""
    given = {
        "name": "folder",
        "model": RESNET,
        "data__train": {"kind": "image_folder", "path": "pictures"},
        "data__validation": {"fraction": 0.25},
        "task": {"kind": "image_classification", "augment": {"crop": 1, "flip": True, "rotate": 10, "erase": 0.2}},
        "train": {"global_batch": 12, "steps": 4},
    }
    return digits(**{**given, **changes})


def line(**changes):
    given = {
        "name": "line",
        "model": {"kind": "small", "type": "linear"},
        "data__train": {"kind": "linear", "weights": [3.0], "noise": 0.1},
        "task": {"kind": "tabular_regression"},
        "train": {"global_batch": 32, "steps": 60},
        "optimizer": {"kind": "sgd", "lr": 0.3},
    }
    return digits(**{**given, **changes})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def album(here):
    return image_files.folder(here / "pictures", 48, size=(16, 12))


def weights(run):
    saved = sorted(Path(run, "checkpoints").glob("step-*"))[-1]
    return {name: tensor for file in saved.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_digits_are_learnt_on_two_ranks_carried_in_a_bundle_and_evaluated(here):
    support.launcher("prepare", support.write(digits()), "--to", "bundle")
    shutil.copytree("bundle", "away/bundle")
    support.launcher("run", "--from", "away/bundle", "--ranks", 2)
    found = support.evaluations("runs/digits")[80]
    assert found["eval/accuracy"] > 0.85
    assert not Path("runs/digits/tokenizer").exists()
    assert not (here / "away/bundle/prepared").joinpath("tokenizer").exists()
    done = support.launcher("evaluate", "runs/digits", "--ranks", 1)
    assert f"{found['eval/accuracy']:.4g}" in done.stdout


def test_a_run_on_a_folder_of_images_resumes_on_another_number_of_ranks_and_keeps_its_way(album):
    file = support.write(folder(train__precision="fp64", evaluate={"every": 4}, checkpoint={"every": 2}))
    support.launcher("run", file, "--ranks", 2)
    before, measured = support.steps("runs/folder"), support.evaluations("runs/folder")[4]
    shutil.rmtree("runs/folder/checkpoints/step-00000004")
    support.launcher("run", file, "--ranks", 3, "--resume")
    assert [r["step"] for r in support.records("runs/folder") if "loss" in r] == [1, 2, 3, 4, 3, 4]
    for step, record in support.steps("runs/folder").items():
        assert record["data"] == before[step]["data"]
        assert record["loss"] == pytest.approx(before[step]["loss"], rel=1e-9)
    assert support.evaluations("runs/folder")[4] == pytest.approx(measured, rel=1e-9)


def test_mean_deviation_and_augmentation_do_not_prepare_again_and_the_size_does(album, cache):
    def prepared(**task):
        recipe = folder(name="again", task={"kind": "image_classification", **task})
        return run_setup.prepare(load.recipe(support.write(recipe)))[0]

    first = prepared()
    assert prepared(mean=[0.5], std=[0.5], augment={"flip": True}) == first
    assert prepared(size=4) != first


def test_strategies_agree_on_images(album):
    made = ranks.ready(support.write(folder()))
    cases = [
        ({"kind": "single"}, {}),
        ({"kind": "ddp"}, {}),
        ({"kind": "fsdp"}, {}),
        ({"kind": "ddp"}, {"max_tokens": 2}),
    ]
    (alone,) = ranks.on_ranks(1, strategy_steps.records, made, cases[:1], 3)
    together = ranks.on_ranks(2, strategy_steps.records, made, cases[1:], 3)[0]
    for records in together:
        assert [r["data"] for r in records] == [r["data"] for r in alone[0]]
        assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in alone[0]], rel=1e-5)
        assert [r["grad_norm"] for r in records] == pytest.approx([r["grad_norm"] for r in alone[0]], rel=1e-4)


def test_a_line_is_found_within_its_noise(here):
    support.launcher("run", support.write(line()), "--ranks", 2)
    found = support.evaluations("runs/line")[60]
    assert found["eval/mse"] == pytest.approx(0.01, rel=0.3)
    assert found["eval/r2"] > 0.99
    (weight,) = [tensor for name, tensor in weights("runs/line").items() if name.endswith("head.weight")]
    assert float(weight) == pytest.approx(3, abs=0.05)


def test_numbers_of_a_table_are_learnt_from_its_columns(here):
    rows = [json.dumps({"x": n / 50, "y": -n / 25, "price": n / 10}) for n in range(50)]
    Path("table.jsonl").write_text("\n".join(rows) + "\n")
    source = {"kind": "jsonl", "path": "table.jsonl", "features": ["x", "y"], "label": "price"}
    support.write(line(name="table", data__train=source, train__steps=2))
    made = run_setup.validate(load.recipe("recipe.yaml"), load.cluster("local").value, 1)
    assert made.facts.shape == (2,)
    assert made.plan.parameters == 3


def test_debug_shows_an_image_and_trains(album):
    support.write(folder())
    done = CliRunner().invoke(cli.app, ["debug", "recipe.yaml", "--show", "2", "--steps", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    shown = re.split(r"^sample \d", done.output.partition("micro-batch")[0], flags=re.MULTILINE)[1:]
    assert len(shown) == 2
    assert all(re.search(r"[░▒▓█]{2}", one) and re.search(r"→ (dark|light)", one) for one in shown)
    assert re.search(r"^pixel_values +\(12, 1, 16, 12\) +torch\.float32 ", done.output, re.MULTILINE)
    assert len(re.findall(r"^step +\d  loss", done.output, re.MULTILINE)) == 2


# What is wrong is told before anything starts


def told(recipe, *overrides):
    support.write(recipe)
    before = support.tree(".")
    with pytest.raises(UserError) as error:
        run_setup.validate(load.recipe("recipe.yaml", overrides), load.cluster("local").value, 2)
    assert support.tree(".") == before
    return [re.sub(r"^recipe\.yaml:\d+: ", "", line) for line in str(error.value).splitlines()]


def test_images_of_different_sizes_are_told(album):
    image_files.save(image_files.pixels(1, (9, 8)), album / "light/odd.png")
    assert told(folder()) == [
        "task.size: the training data has images of 2 sizes, such as 9x8 and 16x12 (height x width): "
        "give the size that all of them are brought to"
    ]
    support.write(folder(task__size=8))
    assert run_setup.validate(load.recipe("recipe.yaml"), load.cluster("local").value, 2).facts.shape == (1, 8, 8)


def test_a_broken_image_is_named_and_may_be_left_out(album):
    file = album / "dark/002.png"
    file.write_bytes(file.read_bytes()[:50])
    (line,) = told(folder())
    assert line.startswith("pictures/dark/002.png: is a broken image: ")
    assert line.endswith(" (or data.train.on_bad_row: skip, to leave such rows out)")
    made = run_setup.validate(
        load.recipe("recipe.yaml", ["data.train.on_bad_row=skip"]), load.cluster("local").value, 2
    )
    assert made.facts.left_out == {"bad": 1}


def test_a_folder_without_images_is_told(here):
    Path("pictures").mkdir()
    (line,) = told(folder())
    assert line.startswith("data.train.path: pictures: no image is in it (looked for LABEL/*.png, ")


def test_a_label_that_stands_in_the_validation_data_alone_is_told(album):
    image_files.save(image_files.pixels(1, (16, 12)), Path("others/grey/0.png"))
    assert told(folder(data__validation={"kind": "image_folder", "path": "others"})) == [
        "data.validation.label: 'grey' stands in the validation data and not in the training data "
        "(there are: dark, light)"
    ]


def test_means_for_channels_that_are_not_there_are_told(album):
    assert told(folder(task__mean=[0.5, 0.5, 0.5])) == [
        "task.mean: 3 numbers, the images have 1 channel (one for each, or one for all)"
    ]


def test_a_tokenizer_for_images_is_told(album):
    assert told(folder(tokenizer={"kind": "train", "vocab_size": 100})) == [
        "tokenizer: image_classification has no text to tokenise (leave it out)"
    ]


def test_texts_for_images_are_told(workspace):
    (line,) = told(folder(data__train={"kind": "text", "path": "corpus.txt"}))
    assert line == "data.train.kind: plain text has no image (use image_folder, hub, ...)"


def test_a_model_of_texts_for_numbers_is_told(here):
    assert told(line(model={"kind": "config", "type": "bert"})) == [
        "model.kind: no model of transformers takes lists of numbers (take kind: small, or factory for one of your own)"
    ]


def test_a_model_that_does_not_take_images_of_this_size_is_told_when_it_is_known(here):
    image_files.folder(here / "pictures", 48, size=(6, 6))
    model = {"kind": "small", "type": "cnn", "channels": [4, 4, 4]}
    assert told(folder(model=model)) == ["model.channels: halved 3 times, nothing is left of 1 x 6 x 6"]


def test_lists_of_different_lengths_and_what_is_no_number_are_told(here):
    source = {"kind": "jsonl", "path": "rows.jsonl"}
    Path("rows.jsonl").write_text('{"features": [1, 2], "label": 1}\n{"features": [1], "label": 1}\n')
    assert told(line(data__train=source)) == [
        "data.train.features: rows of 1 and of 2 numbers in the training data: all need as many"
    ]
    Path("rows.jsonl").write_text('{"features": [1, 2], "label": 1}\n{"features": [1, "far"], "label": 1}\n')
    assert told(line(data__train=source)) == [
        "rows.jsonl:2: data.train.features: column 'features' is 'far': should be a number "
        "(or data.train.on_bad_row: skip, to leave such rows out)"
    ]
