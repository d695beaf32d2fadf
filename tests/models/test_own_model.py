"""A model of the user's own is one file: it is found by a dotted path, and mypy accepts it."""

from pathlib import Path

import support
import torch
from support import type_check

from launcher.config import load, plugins
from launcher.plan import model_requirements, model_spec
from launcher.plan.facts import guess

BAG_OF_WORDS = '''
"""The mean of a text's embeddings, with a linear layer for its labels."""

import torch
from pydantic import Field

from launcher import models
from launcher.config.model import ModelConfig
from launcher.plan.model_requirements import ModelRequirements


class Config(ModelConfig):
    """A bag of words."""

    width: int = Field(8, gt=0)
    """Width of the embeddings."""


class BagOfWords(torch.nn.Module):  # type: ignore[misc]
    """Logits of shape (samples, labels) from token ids of shape (samples, length)."""

    def __init__(self, words: int, width: int, labels: int):
        super().__init__()
        self.embedding = torch.nn.Embedding(words, width)
        self.head = torch.nn.Linear(width, labels)

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(input_ids).mean(1))


class Model(models.Model[Config]):
    """The model of a bag of words."""

    def build(self, requirements: ModelRequirements, weights: bool = True) -> tuple[torch.nn.Module, list[str]]:
        model = BagOfWords(requirements.vocab_size, self.config.width, int(requirements.options["num_labels"]))
        adapted, notes = models.adapted(model, self.config)
        return adapted, notes if weights else []
'''


def own_model():
    file = Path("mine/bag.py")
    file.parent.mkdir()
    file.write_text(BAG_OF_WORDS, encoding="utf-8")
    return file


def test_a_recipe_names_it_by_a_dotted_path(workspace, monkeypatch):
    own_model()
    monkeypatch.syspath_prepend(Path.cwd())
    task = {"kind": "sequence_classification"}
    model = {"kind": "mine.bag", "width": 4, "freeze": ["embedding"]}
    tokenizer = {"kind": "train", "vocab_size": 50}
    recipe = load.recipe(support.write(support.mlm(model=model, task=task, tokenizer=tokenizer))).value
    requirements = model_requirements.of(recipe, guess(recipe))
    built, notes = plugins.model(recipe.model).build(requirements)
    assert built(input_ids=torch.tensor([[1, 2, 3]])).shape == (1, 2)
    assert [name for name, one in built.named_parameters() if one.requires_grad] == ["head.weight", "head.bias"]
    assert notes == ["frozen: 1 of 3 tensors (200 of 210 parameters); trained: head.weight, head.bias"]
    assert model_spec.count(recipe, requirements).parameters == 210


def test_mypy_accepts_it(workspace):
    type_check.assert_accepted(own_model())
