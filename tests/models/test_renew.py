"""New weights where a checkpoint has some: the head, and the topmost layers."""

import pytest
import torch

from launcher.config.errors import UserError
from launcher.models import pretrained


@pytest.fixture(scope="module")
def folder(bert, tmp_path_factory):
    """A classifier whose weights all differ from what an initialiser draws or sets."""
    model = bert(labels=True, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.save_pretrained(made := tmp_path_factory.mktemp("whole"))
    return made


@pytest.fixture
def build(folder, need):
    def make(labels=True, seed=5, **keys):
        torch.manual_seed(seed)
        return pretrained.Model(pretrained.Config(name=str(folder), **keys)).build(need(labels))

    return make


def changed(model, base):
    before = base.state_dict()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_new_head_is_drawn_and_all_else_is_left(build):
    model, notes = build(head="new")
    assert changed(model, build()[0]) == {"classifier.weight", "classifier.bias"}
    assert 0.001 < model.classifier.weight.std() < 0.1
    assert not model.classifier.bias.any()
    assert notes == ["new weights, as the recipe says: classifier.weight, classifier.bias"]


@pytest.mark.parametrize(("count", "layers"), [(1, "1"), (2, "01")])
def test_the_topmost_layers_are_drawn_and_all_else_is_left(build, count, layers):
    model, _ = build(reinit_layers=count)
    expected = {n for n in model.state_dict() if any(n.startswith(f"bert.encoder.layer.{layer}.") for layer in layers)}
    assert changed(model, build()[0]) == expected
    norm = model.bert.encoder.layer[1].output.LayerNorm
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()


def test_the_seed_decides_what_is_drawn(build):
    one, same, other = (build(head="new", seed=seed)[0].classifier.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_weights_that_are_tied_to_the_encoder_stay(saved, need):
    base, _ = pretrained.Model(pretrained.Config(name=str(saved))).build(need())
    model, _ = pretrained.Model(pretrained.Config(name=str(saved), head="new")).build(need())
    assert changed(model, base) == {"cls.predictions.transform.dense.weight"}  # the rest begins as it was saved
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_more_layers_than_there_are_are_refused_when_it_is_counted(build, folder, need):
    told = r"^model\.reinit_layers: 3, but BertModel has 2 layers$"
    with pytest.raises(UserError, match=told):
        build(reinit_layers=3)
    with pytest.raises(UserError, match=told), torch.device("meta"):
        pretrained.Model(pretrained.Config(name=str(folder), reinit_layers=3)).build(need(True), weights=False)


def test_new_weights_train_beside_an_adapter(build):
    model, _ = build(reinit_layers=1, adapter={"kind": "lora", "targets": ["layer.0.attention.self.query"]})
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {n for n, _ in model.named_parameters() if n.startswith("bert.encoder.layer.1.")} <= trained
    assert "bert.encoder.layer.0.attention.self.key.weight" not in trained
