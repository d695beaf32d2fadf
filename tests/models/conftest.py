import json

import pytest
import support
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from launcher.config.tokenizer import TrainTokenizer
from launcher.distributed.process_group import ProcessGroup
from launcher.models import config
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare import tokenizer
from launcher.storage.run_dir import RunDir
from launcher.train import checkpoint

RESNET = {"depths": [1, 1], "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16]}
LABELS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models of some thousand parameters are faster without threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def need():
    """What a model has to fit; anything of it may be given. `labels`: a classifier of three."""

    def make(labels=False, **given):
        kind = "SequenceClassification" if labels else "MaskedLM"
        known = {"options": LABELS if labels else {}, "vocab_size": 60, "pad_token_id": 3, "max_length": 16}
        return ModelRequirements(**{"auto_class": f"AutoModelFor{kind}", **known, **given})

    return make


@pytest.fixture(scope="session")
def images():
    """What a model of images has to fit: three labels, by itself."""

    def make(shape=(3, 32, 32), **options):
        return ModelRequirements("AutoModelForImageClassification", options or LABELS, 0, 0, 1, shape)

    return make


@pytest.fixture(scope="session")
def resnet():
    """A tiny ResNet of four labels, some of its statistics no longer those of the start."""
    torch.manual_seed(0)
    made = ResNetForImageClassification(ResNetConfig(**RESNET, num_labels=4))
    made.train()(pixel_values=torch.randn(4, 3, 32, 32))
    return made.eval()


@pytest.fixture(scope="session")
def bert(need):
    """A tiny BERT of random weights."""

    def make(labels=False, seed=0, **keys):
        torch.manual_seed(seed)
        return config.Model(config.Config(type="bert", **{**support.TINY, **keys})).build(need(labels))[0]

    return make


@pytest.fixture(scope="session")
def words():
    texts = [" ".join(support.WORDS)] * 3
    return tokenizer.train(TrainTokenizer(vocab_size=60), lambda: texts)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, bert, words):
    """A folder that transformers can load: a tiny random BERT with its head for masked language modelling."""
    folder = tmp_path_factory.mktemp("pretrained") / "tiny"
    bert(seed=1).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, bert, words):
    """The folder of a run with checkpoints of steps 2, 4 and 6, of which 4 is the best; and their weights."""
    folder = RunDir(tmp_path_factory.mktemp("runs") / "one")
    process, weights = ProcessGroup(0, 1, torch.device("cpu")), {}
    folder.checkpoints.mkdir(parents=True)
    folder.recipe.write_text("name: one\n", encoding="utf-8")
    for step, loss in ((2, 3.0), (4, 1.0), (6, 2.0)):
        model = bert(seed=step)
        tensors = {f"model.{name}": p.detach().clone() for name, p in model.named_parameters()}
        state = {
            "step": step,
            "data": "",
            "evaluation": {"eval/loss": loss},
            "watched": {"metric": "loss", "value": loss},
        }
        state |= {"samples": 0, "tokens": 0, "seconds": 0.0, "ranks": 1, "strategy": "single"}
        checkpoint.save(folder, tensors, json.loads(json.dumps(state)), 9, process)
        weights[step] = model.state_dict()
    model.config.save_pretrained(folder.model)
    words.save_pretrained(folder.tokenizer)
    return folder, weights
