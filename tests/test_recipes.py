"""Every shipped recipe: it loads, is planned on every cluster profile with the models that it names, and trains on two
ranks on local data of the same form, where it learns."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import support
from support import local_hub, plain_environment, ranks, recipe_data, warm_start
from support.recipe_data import TEXT, TINY

from launcher.config import load
from launcher.prepare import run_setup

RECIPES = load.shipped("recipes")
NAMES = [file.stem for file in RECIPES]
ELSEWHERE = [file.stem for file in load.shipped("cluster") if load.cluster(file).value.kind != "local"]

RANKS = {"bert-base-mlm-hsdp": 4}
"""Two groups of ranks need more than two."""

BERT = "model.name=./bert"
BOTH = "data.{side}={{kind: jsonl, path: {file}{columns}}}"


def lines(file, columns=""):
    return [BOTH.format(side=side, file=file, columns=columns) for side in ("train", "validation")]


def images(size):
    sources = [f"data.{side}={{kind: image_folder, path: images}}" for side in ("train", "validation")]
    return [*sources, f"task.size={size}"]


PRETRAINING = [
    f"model={{kind: config, type: bert, {TINY}}}", "tokenizer={kind: train, vocab_size: 120}",
    f"data.train={TEXT}", f"data.validation={TEXT}", "optimizer.lr=0.02",
]  # fmt: skip
QUICKSTART = [f"model={{kind: config, type: bert, {TINY}}}", "tokenizer.vocab_size=400", "optimizer.lr=0.01"]
DIGITS = ["data.train={kind: digits}", "data.validation={fraction: 0.2}"]
FEW = "{kind: python_docs, packages: [json, email]}"

LOCAL = {
    "bert-base-mlm-wikitext2": PRETRAINING,
    "bert-base-mlm-fsdp": PRETRAINING,
    "bert-base-mlm-hsdp": PRETRAINING,
    "bert-large-mlm-zero2": PRETRAINING,
    "bert-large-mlm-zero3-offload": PRETRAINING,
    "bert-customer-service": [BERT, "data.train.path=questions.jsonl", "optimizer.lr=0.01"],
    "bert-ner-conll2003": [BERT, *lines("tagged.jsonl", ", words: tokens, labels: ner_tags"), "optimizer.lr=0.01"],
    "bert-squad": [BERT, *lines("squad.jsonl"), "data.max_length=48", "task.stride=8", "optimizer.lr=0.01"],
    "bert-sts-regression": [
        BERT, *lines("pairs.jsonl", ", text: sentence1, text_pair: sentence2"), "optimizer.lr=0.01",
    ],
    "bert-text-classification": [BERT, *lines("corpus.jsonl"), "optimizer.lr=0.01"],
    "cnn-cifar10": [*images(32), "model.channels=[4, 8]", "model.hidden=[16]"],
    "cnn-mnist-steplr": [*DIGITS, "optimizer.lr=0.005"],
    "distil-bert-mini": [f"data.train={FEW}", "optimizer.lr=0.01"],
    "gpt2-clm-wikitext2": [
        "model.name=./gpt2", f"data.train={TEXT}", f"data.validation={TEXT}", "data.max_length=32", "optimizer.lr=0.02",
    ],
    "linear-regression": [],
    "minilm-topics-lora": [
        BERT, "data.train.path=corpus.jsonl", "model.adapter.targets=[query, value, dense]", "optimizer.lr=0.02",
    ],
    "mlp-mnist": DIGITS,
    "quickstart-finetune": ["data.train.packages=[json, email]", "optimizer.lr=0.01"],
    "quickstart-pretrain": [*QUICKSTART, "data.train.packages=[json, email, http]"],
    "resnet18-cifar10-frozen": ["model.name=./resnet", *images(32), "optimizer.lr=0.02"],
    "reward-toy": [],
    "t5-summarisation": [
        "model.name=./t5", *lines("news.jsonl", ", text: article, target: highlights"), "data.max_length=64",
        "task.max_target_length=8", "task.generate=null", "optimizer={kind: adamw, lr: 0.02}", "schedule.warmup=0",
    ],
}  # fmt: skip
SHORT = [
    "train.epochs=null", "train.steps=24", "train.global_batch=8", "train.max_tokens=null", "train.precision=fp32",
    "evaluate={at_start: true}", "checkpoint={keep: 1}", "sinks=[jsonl]", "train.strict_contract=true",
]  # fmt: skip
BETTER = {"reward-toy": "reward"}
"""What rises, where it is not the loss that falls: a gradient of a policy has no loss to speak of."""


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_it_loads_and_is_named_as_its_file(file):
    assert load.recipe(file).value.name == file.stem


def test_the_index_names_them_all():
    index = (RECIPES[0].parent / "README.md").read_text(encoding="utf-8")
    assert all(f"[{file.stem}]({file.name})" in index for file in RECIPES)


def test_all_of_them_are_tried_here():
    assert len(RECIPES) == 22
    assert set(LOCAL) == set(NAMES)


# Planned, with the architectures of the models that they name


def _configurations():
    """The models of the hub that the recipes name, by their sizes."""
    import transformers as hf

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    minilm = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return {
        "google-bert/bert-base-uncased": hf.BertConfig(),
        "google-bert/bert-base-cased": hf.BertConfig(vocab_size=28996),
        "google-bert/bert-large-uncased": hf.BertConfig(**large),
        "sentence-transformers/all-MiniLM-L6-v2": hf.BertConfig(**minilm),
        "microsoft/resnet-18": hf.ResNetConfig(
            depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512], num_labels=1000
        ),
        "openai-community/gpt2": hf.GPT2Config(),
        "google-t5/t5-small": hf.T5Config(decoder_start_token_id=0),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the data and the tiny models; in it, a hub that has the configurations."""
    folder, before = recipe_data.write(tmp_path_factory.mktemp("recipes")), Path.cwd()
    os.chdir(folder)
    patch = pytest.MonkeyPatch()
    with local_hub.serving() as hub:
        for name, config in _configurations().items():
            config.save_pretrained(folder / "hub" / name)
            hub.repositories[f"models/{name}"] = folder / "hub" / name
        (folder / "hub" / "data").mkdir()
        for source in (load.recipe(file).value.data.train for file in RECIPES):
            if source.kind == "hub":
                hub.repositories[f"datasets/{source.name}"] = folder / "hub" / "data"
        hub.commits["refs%2Fconvert%2Fparquet"] = "b" * 40
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_HOME", str(folder / "home"))
        with warm_start.in_this_environment():
            yield folder
    patch.undo()
    os.chdir(before)


@pytest.fixture(scope="module")
def trained(place):
    """Of every recipe's short run the losses, before and after, and how many modules draw: all of them on the same
    ranks, one after the other."""
    told = {}
    for names in (["quickstart-pretrain"], [name for name in NAMES if name != "quickstart-pretrain"]):
        for world in (2, 4):  # those after the first take on its run
            some = [name for name in names if RANKS.get(name, 2) == world]
            folders = {name: ranks.ready(name, *LOCAL[name], *SHORT, ranks=world) for name in some}
            if folders:
                drawn = ranks.on_ranks(world, _train, [str(folder) for folder in folders.values()])[0]
                found = {name: _evaluations(folder, BETTER.get(name, "loss")) for name, folder in folders.items()}
                told |= {name: (found[name], draws) for name, draws in zip(found, drawn, strict=True)}
    return told


def _train(process, folders):
    from launcher import rank_training
    from launcher.distributed.stop_requests import StopMonitor

    drawn, build = [], rank_training.build

    def counting(*given):
        run, notes = build(*given)
        drawn.append(len(run.randomness.modules))
        return run, notes

    rank_training.build = counting
    for folder in map(Path, folders):
        assert rank_training.train(folder, process, StopMonitor()) == 0
    assert len(drawn) == len(folders)
    return drawn


def _evaluations(folder, metric):
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record[f"eval/{metric}"] for record in every if f"eval/{metric}" in record]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_on_two_ranks_and_local_data(trained, name):
    losses, _ = trained[name]
    before, after = losses[0], losses[-1]
    assert after > before if name in BETTER else after < 0.98 * before


DRY = {"linear-regression", "resnet18-cifar10-frozen", "distil-bert-mini", "reward-toy"}
"""Recipes of models without dropout."""


def test_no_recipe_draws_what_is_not_by_the_contract(trained):
    """All are trained under a strict contract, with the dropout that they ship."""
    assert len(trained) == 22 and "train.strict_contract=true" in SHORT
    assert {name for name, (_, drawn) in trained.items() if not drawn} == DRY


def data_of(name):
    """The data of a recipe that leaves it to the user."""
    needs = {"mlp-mnist", "cnn-mnist-steplr", "bert-customer-service", "minilm-topics-lora"}
    return [key for key in LOCAL[name] if key.startswith(("data", "task"))] if name in needs else []


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_here(trained, name):
    options = ("--cluster", "local", "--ranks", RANKS.get(name, 2), "--json")
    plan = json.loads(support.launcher("plan", name, *data_of(name), "name=planned", *options).stdout)
    assert (plan["ranks"], plan["name"]) == (RANKS.get(name, 2), "planned")
    assert plan["parameters"] > 0 and sum(plan["memory"].values()) < plan["memory_per_device"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_on_every_cluster_of_other_machines(trained, name):
    """With a batch that its ranks can share, and two ranks a host over ssh, which a mesh of two axes needs."""
    assert len(ELSEWHERE) == 5
    for cluster in ELSEWHERE:
        profile = load.cluster(cluster, ["devices_per_node=2"] if cluster == "two-hosts-ssh" else []).value
        recipe = load.recipe(name, [*data_of(name), "name=planned", "train.global_batch=64"])
        plan = run_setup.dry_run(recipe, profile, None)
        assert (plan.nodes, plan.ranks) == (2, 2 * profile.devices_per_node)
        assert plan.parameters > 0 and sum(plan.memory.values()) < plan.memory_per_device


# In an environment without extras

EXTRA = {"bert-large-mlm-zero2", "bert-large-mlm-zero3-offload"}
"""Recipes that need an extra: deepspeed."""
TRAIN = """
import sys
from pathlib import Path
from launcher import rank_training
from launcher.distributed import process_group
from launcher.distributed.stop_requests import StopMonitor

process = process_group.connect(process_group.RankInfo(0, 1, 0, 1), "cpu", None)
assert [rank_training.train(Path(folder), process, StopMonitor()) for folder in sys.argv[1:]] == [0] * len(sys.argv[1:])
"""


def test_recipes_that_need_no_extra_run_where_none_is_installed(place, trained):
    """In a virtual environment of its own; 30 s, since no other test lacks the packages of the extras and the tests."""
    python = plain_environment.create(place / "plain")
    short = [*SHORT, "train.steps=2", "train.strict_contract=false"]
    first, *others = ["quickstart-pretrain", *(name for name in NAMES if name not in {"quickstart-pretrain", *EXTRA})]
    command = [python, "-m", "launcher", "run", first, *LOCAL[first], *short, "name=plain-first", "--ranks", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = {"bert-base-mlm-hsdp": ["strategy={kind: single}"], "bert-base-mlm-fsdp": ["strategy={kind: single}"]}
    folders = [ranks.ready(name, *LOCAL[name], *short, *alone.get(name, []), f"name=plain-{name}") for name in others]
    done = subprocess.run([python, "-c", TRAIN, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all((folder / "checkpoints" / "step-00000002" / "COMPLETE").is_file() for folder in folders)
