"""The vocabulary that a plan knows of, and what does not fit it: found before anything is prepared."""

import json
import subprocess
import sys

import pytest
import support

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import TrainTokenizer
from launcher.plan import expected_vocabulary, plan
from launcher.prepare import tokenizer

CLUSTER = Cluster(name="two", device="cpu", devices_per_node=2, memory_per_device=16)
ALGORITHMS = ["wordpiece", "bpe", "unigram"]
SIZES = {"wordpiece": 70, "bpe": 280, "unigram": 70}


def recipe(**changes):
    return Recipe.model_validate(support.mlm(**changes))


def of(folder, **changes):
    return recipe(tokenizer={"kind": "pretrained", "name": str(folder)}, **changes)


def planned(found):
    return plan.make(found, CLUSTER, file="recipe.yaml")


def saved(folder, algorithm="wordpiece", added=0):
    texts = [" ".join(support.WORDS)] * 3
    made = tokenizer.train(TrainTokenizer(algorithm=algorithm, vocab_size=SIZES[algorithm]), lambda: texts)
    made.add_tokens([f"<{n}>" for n in range(added)])
    made.save_pretrained(folder)
    return len(made)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("added", [0, 3])
def test_the_size_of_a_local_tokenizer_is_that_of_the_tokenizer_that_is_loaded(algorithm, added, tmp_path):
    size = saved(tmp_path, algorithm, added)
    assert expected_vocabulary.size(of(tmp_path)) == size == len(tokenizer.load(str(tmp_path), "tokenizer"))


def test_the_size_of_a_tokenizer_to_be_trained_is_the_one_requested():
    assert expected_vocabulary.size(recipe()) == 120


def test_a_size_that_cannot_be_known_is_none(tmp_path):
    assert expected_vocabulary.size(of("some/words")) == 0
    assert expected_vocabulary.size(recipe(tokenizer=None)) == 0
    for text in ("", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": ["a"]}}', '"x"'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert expected_vocabulary.size(of(tmp_path)) == 0


def test_a_models_own_folder_is_looked_into(tmp_path):
    size = saved(tmp_path / "model")
    assert (
        expected_vocabulary.size(recipe(tokenizer=None, model={"kind": "pretrained", "name": str(tmp_path / "model")}))
        == size
    )
    (tmp_path / "model").rename(tmp_path / "tokenizer")
    assert expected_vocabulary.size(recipe(tokenizer=None, model={"kind": "run", "run": str(tmp_path)})) == size


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    size = saved(tmp_path / "words")
    assert expected_vocabulary.size(of("~/words")) == size


def test_it_is_read_without_torch_or_transformers(tmp_path):
    saved(tmp_path)
    code = (
        "import json, sys\n"
        "from launcher.config.recipe import Recipe\n"
        "from launcher.plan import expected_vocabulary\n"
        "assert expected_vocabulary.size(Recipe.model_validate(json.loads(sys.argv[1]))) > 0\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\n"
    )
    given = support.mlm(tokenizer={"kind": "pretrained", "name": str(tmp_path)})
    subprocess.run([sys.executable, "-c", code, json.dumps(given)], check=True)


def test_a_model_with_fewer_embeddings_than_the_tokenizer_has_tokens_is_refused_by_the_plan(workspace):
    size = saved("words", added=5)
    told = rf"^model\.vocab_size: 60, but the tokenizer has {size} tokens \(at least that many, or leave it out\)$"
    with pytest.raises(UserError, match=told):
        planned(of("./words", model__vocab_size=60))
    with pytest.raises(UserError, match=r"^model\.vocab_size: 100, but the tokenizer has 120 tokens "):
        planned(recipe(model__vocab_size=100))


def test_a_pretrained_model_with_another_tokenizer_that_is_larger_is_refused_by_the_plan(workspace):
    from transformers import BertConfig

    size = saved("words", added=5)
    BertConfig(**support.TINY, vocab_size=size - 1).save_pretrained("model")
    told = rf"^tokenizer: has {size} tokens, the model embeds {size - 1} \(use the model's own tokenizer\)$"
    with pytest.raises(UserError, match=told):
        planned(of("./words", model={"kind": "pretrained", "name": "./model"}))


def test_parameters_are_those_of_the_vocabulary_that_is_there(workspace):
    size = saved("words")
    there, asked = planned(of("./words")), planned(recipe(tokenizer={"kind": "train", "vocab_size": size}))
    assert there.parameters == asked.parameters
    more = planned(of("./words", model__vocab_size=size + 10))
    assert more.parameters == there.parameters + 10 * (support.TINY["hidden_size"] + 1)  # a bias each in the head
