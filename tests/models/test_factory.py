"""A model of the user's own function, and everything that may be wrong with it."""

import sys
from textwrap import dedent

import pytest
import torch

from launcher.config.errors import UserError
from launcher.models import factory

CODE = '''\
"""The user's own."""
import torch
from types import SimpleNamespace

class Plain(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1).float())

class Named(torch.nn.Module):
    def __init__(self, vocab_size, num_labels=2, width=4):
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(vocab_size, width), torch.nn.Linear(width, num_labels)
    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.head(self.embed(input_ids).mean(1)))

class Any(Named):
    def forward(self, **inputs):
        return super().forward(inputs["input_ids"])

def plain(shape, num_labels):
    return Plain(shape[0], num_labels)

def counts(num_labels):
    return torch.nn.Linear(int(torch.linspace(1, 5, 3).sum().item()), num_labels).double()

def raises(num_labels):
    helper()

def helper():
    raise KeyError("what")

def keywords(vocab_size, **more):
    return Named(vocab_size, **more)

def nothing():
    return None

number = 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "models.py").write_text(CODE)
    (tmp_path / "mine" / "broken.py").write_text("import os\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "mine"
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


def build(need, name, **options):
    return factory.Model(factory.Config(factory=name, options=options)).build(need)[0]


def mistake(need, name, **options):
    with pytest.raises(UserError) as told:
        build(need, name, **options)
    return str(told.value)


@pytest.mark.parametrize("path", ["mine.models:plain", "mine.models.plain"])
def test_a_function_gets_what_it_asks_for_and_its_module_takes_one_tensor_by_any_name(mine, images, path):
    model = build(images((5,)), path)
    assert model(features=torch.ones(2, 5)).shape == (2, 3)
    assert model(torch.ones(2, 5)).shape == (2, 3)
    assert model(x=torch.ones(2, 5)).shape == (2, 3)


@pytest.mark.parametrize("name", ["Named", "Any", "keywords"])
def test_a_class_is_a_function_too_and_options_go_before_what_is_offered(mine, need, name):
    model = build(need(labels=True), f"mine.models:{name}", num_labels=7, width=6)
    assert (model.embed.num_embeddings, model.embed.embedding_dim, model.head.out_features) == (60, 6, 7)
    ids = torch.tensor([[1, 2]])
    assert model(input_ids=ids, attention_mask=ids).logits.shape == (1, 7)


def test_code_that_needs_numbers_is_counted_all_the_same(mine, images):
    config = factory.Config(factory="mine.models:counts")
    with torch.device("meta"):
        model, _ = factory.Model(config).build(images((9,)), weights=False)
    assert (model.weight.shape, model.weight.device.type, model.weight.dtype) == ((3, 9), "meta", torch.float32)
    assert build(images((9,)), "mine.models:counts").weight.device.type == "cpu"


def test_inputs_that_a_forward_of_one_does_not_take_are_reported(mine, need):
    model = build(need(labels=True), "mine.models:counts")
    with pytest.raises(UserError) as told:
        model(input_ids=torch.ones(1, 9), attention_mask=torch.ones(1, 9))
    assert str(told.value) == (
        "model.factory: forward of Linear does not take input_ids, attention_mask "
        "(the task gives input_ids, attention_mask)"
    )


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("plain", {}, "model.factory: 'plain' is no path to a function (such as mypkg.models:make)"),
        ("a b:c", {}, "model.factory: 'a b:c' is no path to a function (such as mypkg.models:make)"),
        ("mine.modells:plain", {}, "model.factory: mine.modells cannot be imported: No module named 'mine.modells'"),
        ("mine.broken:f", {}, "model.factory: mine.broken cannot be imported: {mine}/broken.py:2: ZeroDivisionError: "),
        ("mine.models:plane", {}, "model.factory: {mine}/models.py has no function plane (did you mean plain?)"),
        ("mine.models:number", {}, "model.factory: {mine}/models.py has no function number ("),
        ("mine.models:nothing", {}, "model.factory: mine.models:nothing returned no torch.nn.Module but NoneType"),
        (
            "mine.models:raises", {},
            "model.factory: mine.models:raises raised {mine}/models.py:30: KeyError: 'what'",
        ),
        (
            "mine.models:plain", {"shap": 1, "zzz": 2},
            """\
            model.options.shap: mine.models:plain has no such argument (did you mean shape?)
            model.options.zzz: mine.models:plain has no such argument (there are: num_labels, shape)
            model.options: mine.models:plain needs shape (besides these it may ask for num_labels, vocab_size, \
pad_token_id, max_length)""",
        ),
        ("mine.models:nothing", {"a": 1}, "model.options.a: mine.models:nothing has no such argument (it has none)"),
        ("mine.models:keywords", {"depth": 1}, "model.factory: mine.models:keywords raised {mine}/models.py:33: TypeE"),
    ],
)  # fmt: skip
def test_every_mistake_is_a_sentence(mine, need, name, options, told):
    expected = dedent(told).replace("{mine}", str(mine))
    assert mistake(need(labels=True), name, **options).startswith(expected)
