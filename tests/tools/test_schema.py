"""`launcher schema`: editors accept what the launcher accepts and mark what it refuses, for every kind that exists."""

import copy
import json
from functools import cache

import jsonschema
import pytest
import support
from jsonschema.exceptions import best_match
from typer.testing import CliRunner

from launcher import cli
from launcher.config import document, kinds, load
from launcher.config.errors import UserError
from launcher.tools import schema

FAMILIES = [folder for folder in kinds.FOLDERS if folder != "schedulers"]
PLUGINS = [(folder, kind) for folder in FAMILIES for kind in kinds.available(folder)]
RECIPES = {file.stem: document.plain(file)[0] for file in load.shipped("recipes")}
PROFILES = {file.stem: document.plain(file)[0] for file in load.shipped("cluster")}
GOOD = RECIPES["bert-text-classification"]


@cache
def validator(file="recipe"):
    found = schema.schema(file)
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


def mistakes(value, file="recipe"):
    """(key, message) of the innermost mistakes."""
    errors = [best_match([error]) for error in validator(file).iter_errors(value)]
    return [(".".join(map(str, error.absolute_path)), error.message) for error in errors]


def changed(**changes):
    return support.changed(copy.deepcopy(GOOD), **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_is_accepted(name):
    assert mistakes(RECIPES[name]) == []


@pytest.mark.parametrize("name", PROFILES)
def test_every_shipped_profile_is_accepted(name):
    assert mistakes(PROFILES[name], "cluster") == []


def keys(value, path=()):
    """The paths of the keys of maps that take no key of any name."""
    free = path == ("model",) and value.get("kind") != "pretrained"
    for key, item in value.items() if isinstance(value, dict) and not free else ():
        yield (*path, key)
        yield from keys(item, (*path, key))


@pytest.mark.parametrize("name", ["bert-ner-conll2003", "distil-bert-mini", "bert-base-mlm-fsdp"])
def test_a_typo_in_any_key_of_a_recipe_is_marked(name):
    found = list(keys(RECIPES[name]))
    assert len(found) > 9
    for path in found:
        wrong = copy.deepcopy(RECIPES[name])
        inner = wrong
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1] + "x"] = inner.pop(path[-1])
        assert mistakes(wrong), path


WRONG = {
    "optimizer.weigth_decay": (0.1, "optimizer", "'weigth_decay' was unexpected"),
    "train.precision": ("bf17", "train.precision", "not one of"),
    "train.global_batch": ("32", "train.global_batch", "not of type 'integer'"),
    "train.on_spike": (True, "train.on_spike", "not one of"),
    "optimizer.lr": (0, "optimizer.lr", "less than or equal to the minimum of 0"),
    "optimizer.kind": ("adamm", "optimizer.kind", "'adamm'"),
    "data.train.nmae": ("x", "data.train", "'nmae' was unexpected"),
    "checkpoint.every": ("10x", "checkpoint.every", "'10x'"),
    "trian": ({}, "", "'trian' was unexpected"),
    "tokenizer": ({"kind": "train", "vocab_sise": 3}, "tokenizer", "vocab_si"),
    "schedule": ({"warmup": 0.1}, "schedule", "'kind' is a required property"),
    "strategy": ("ddq", "strategy", "'ddq'"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_mistake_is_marked_at_its_key(key, tmp_path):
    value, where, what = WRONG[key]
    wrong = changed(**{key.replace(".", "__"): value})
    with pytest.raises(UserError):
        load.recipe(support.write(wrong, tmp_path / "wrong.yaml"))
    assert any(at == where and what in message for at, message in mistakes(wrong)), mistakes(wrong)


def test_a_missing_key_is_marked():
    without = changed()
    del without["train"]["global_batch"]
    assert mistakes(without) == [("train", "'global_batch' is a required property")]


RIGHT = {
    "strategy": "ddp",
    "sinks": ["console", {"kind": "wandb"}, "mine.sink"],
    "schedule": "cosine",
    "tokenizer": None,
    "checkpoint.memory": "every 10 steps",
    "checkpoint.every": 100,
    "train.activation_checkpointing": "every 2",
    "data.validation": {"fraction": 0.1, "stratify": "auto"},
    "data.train": {"kind": "csv", "path": ["a.csv", "b.csv"], "delimiter": "\t", "quote": "none"},
    "task": {"kind": "distillation", "teacher": {"run": "runs/x"}, "task": {"kind": "sequence_classification"}},
}


@pytest.mark.parametrize("key", RIGHT)
def test_every_way_to_write_a_value_is_accepted(key):
    assert mistakes(changed(**{key.replace(".", "__"): RIGHT[key]})) == []


def test_a_kind_of_ones_own_takes_any_keys_and_an_unknown_kind_is_none():
    assert mistakes(changed(task={"kind": "mine.tasks.ranking", "margin": 1})) == []
    assert mistakes(changed(task={"kind": "ranking", "margin": 1}))


def test_a_file_that_inherits_may_leave_out_any_key_and_misspell_none():
    assert (
        mistakes(
            {"base": "other.yaml", "train": {"steps": 3}, "optimizer": {"lr": 0.1}, "data": {"train": {"path": "x"}}}
        )
        == []
    )
    assert mistakes({"base": "other.yaml", "optimizer": {"kind": "adamw", "rl": 0.1}})
    assert mistakes({"base": "other.yaml", "optimizer": {"rl": 0.1}})
    assert mistakes({"base": "other.yaml", "trian": {}})


SLURM = {"kind": "slurm", "device": "cuda", "devices_per_node": 8}


@pytest.mark.parametrize(
    ("profile", "accepted"),
    [
        ({**SLURM, "slurm": {"time": 30, "gres": "gpu:8"}, "nodes": "2:4"}, True),
        ({**SLURM, "slurm": {"time": 30, "exlusive": True}}, False),
        ({**SLURM, "slurm": None}, True),
        ({"kind": "local", "slurm": {"time": 30}}, False),
        ({"kind": "ssh", "device": "cuda", "devices_per_node": 1}, False),
        ({"kind": "mine.grid", "grid": {"queue": "long"}}, True),
        ({"kind": "local", "foo": 1}, False),
        ({"nodes": 0}, False),
        ({"base": "slurm-h100-8x.yaml", "slurm": {"account": "us"}}, True),
        ({"base": "slurm-h100-8x.yaml", "slurm": {"acount": "us"}}, False),
    ],
)
def test_a_profile_has_the_section_of_its_kind(profile, accepted):
    assert (mistakes(profile, "cluster") == []) == accepted


@pytest.mark.parametrize(("folder", "kind"), PLUGINS)
def test_every_kind_has_its_keys_with_descriptions_and_valid_defaults(folder, kind):
    """A kind that is added is covered by its existence."""
    definitions = validator().schema["definitions"]
    alternatives = definitions[folder]["else"]["allOf"]
    (reference,) = [one["then"]["$ref"] for one in alternatives if one["if"]["properties"]["kind"]["const"] == kind]
    found = definitions[reference.removeprefix("#/definitions/")]
    config = kinds.module(folder, kind).Config
    assert set(found["properties"]) == set(config.model_fields)
    assert found["additionalProperties"] == (config.model_config.get("extra") == "allow")
    for key, values in found["properties"].items():
        assert values["description"], key
        if "default" in values:
            jsonschema.Draft7Validator({**values, "definitions": definitions}).validate(values["default"])
    bare = {"const": kind} in [{"const": one.get("const")} for one in definitions[folder]["then"]["anyOf"]]
    required = [key for key in found.get("required", []) if key != "kind"]
    assert bare == (not required)


@pytest.mark.parametrize("file", ["recipe", "cluster"])
def test_every_key_of_both_files_has_a_description(file):
    configs = [one for one in validator(file).schema["definitions"].values() if "additionalProperties" in one]
    assert len(configs) > 5
    for config in configs:
        for key, values in config["properties"].items():
            assert values.get("description") or "$ref" in values, key


def test_the_command_prints_or_writes_the_schema(tmp_path):
    for words in ([], ["cluster"]):
        done = CliRunner().invoke(cli.app, ["schema", *words], catch_exceptions=False)
        CliRunner().invoke(cli.app, ["schema", *words, "--to", str(tmp_path / "x.json")], catch_exceptions=False)
        assert (tmp_path / "x.json").read_text() == done.stdout
        assert json.loads(done.stdout) == schema.schema(words[0] if words else "recipe")
