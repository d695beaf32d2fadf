"""Weights from a folder that transformers can load; the hub itself is never asked."""

import json

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM

from launcher.config.errors import UserError
from launcher.models import pretrained


def build(folder, need, **keys):
    return pretrained.Model(pretrained.Config(name=str(folder), **keys)).build(need)


def test_the_weights_are_those_that_were_saved(saved, need):
    model, notes = build(saved, need())
    before = BertForMaskedLM.from_pretrained(saved).state_dict()
    assert notes == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_half_precision_become_single(saved, need, tmp_path):
    BertForMaskedLM.from_pretrained(saved, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model, _ = build(tmp_path, need())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_new_head_on_the_same_encoder_is_reported(saved, need):
    model, (note,) = build(saved, need(labels=True))
    before = BertForMaskedLM.from_pretrained(saved).bert.state_dict()
    encoder = {name: tensor for name, tensor in model.bert.state_dict().items() if "pooler" not in name}
    assert encoder.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.items())
    assert note.startswith(f"new weights, not in {saved}: ")
    assert "classifier.weight" in note
    assert "bert.encoder" not in note


def test_a_head_of_another_number_of_labels_is_made_anew_and_reported(need, bert, tmp_path):
    bert(labels=True).save_pretrained(tmp_path)
    four = {"num_labels": 4, "id2label": dict(enumerate("abcd")), "label2id": {c: n for n, c in enumerate("abcd")}}
    model, notes = build(tmp_path, need(labels=True, options=four))
    assert model.classifier.weight.shape == (4, 16)
    assert notes == [f"new weights, not in {tmp_path}: classifier.bias, classifier.weight"]


def test_the_same_labels_keep_their_head(need, bert, tmp_path):
    before = bert(labels=True)
    before.save_pretrained(tmp_path)
    model, notes = build(tmp_path, need(labels=True))
    assert notes == []
    assert torch.equal(model.classifier.weight, before.classifier.weight)


def test_a_larger_vocabulary_than_the_models_is_refused(saved, need):
    with pytest.raises(UserError, match=r"^tokenizer: .*61 tokens, the model embeds 60 .*own"):
        build(saved, need(vocab_size=61))


def test_a_smaller_vocabulary_leaves_the_embeddings_as_they_are(saved, need):
    model, _ = build(saved, need(vocab_size=50))
    assert model.get_input_embeddings().num_embeddings == 60


def test_samples_longer_than_its_positions_are_refused(saved, need):
    with pytest.raises(UserError, match=r"^data\.max_length: 513 tokens, but BertForMaskedLM has positions for 512"):
        build(saved, need(max_length=513))


def test_a_folder_that_is_not_there_is_named(need, tmp_path):
    for name in (tmp_path / "none", "./none", "~/none-of-this-name"):
        with pytest.raises(UserError, match=rf"^model\.name: {name}: no such folder$"):
            build(name, need())


def test_a_folder_without_a_model_is_reported(need, tmp_path):
    with pytest.raises(UserError, match=r"^model"):
        build(tmp_path, need())


def test_a_model_of_the_hub_that_is_missing_is_reported_with_what_to_do(need):
    with pytest.raises(UserError, match=r"^model\.name: nobody/nothing: .*launcher prepare"):
        build("nobody/nothing", need())


def test_an_attention_that_there_is_not_is_reported(saved, need):
    with pytest.raises(UserError, match=r"^model: "):
        build(saved, need(), attention="no_such_attention")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_is_the_one_requested(saved, need, attention):
    model, _ = build(saved, need(), attention=attention)
    assert model.config._attn_implementation == attention


def test_a_tilde_is_the_home_folder(saved, need, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert build("~/tiny", need())[1] == []


def test_its_tokenizer_is_its_own(saved, words):
    own = pretrained.Model(pretrained.Config(name=str(saved))).tokenizer()
    assert AutoTokenizer.from_pretrained(own.name).get_vocab() == words.get_vocab()


def test_its_tokenizer_is_of_its_revision():
    own = pretrained.Model(pretrained.Config(name="some/model", revision="v2")).tokenizer()
    assert (own.name, own.revision) == ("some/model", "v2")


def test_what_the_folder_says_of_dropout_stays_unless_it_is_said_otherwise(saved, need, tmp_path):
    BertForMaskedLM.from_pretrained(saved).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    told = json.loads(file.read_text()) | {"hidden_dropout_prob": 0.3}
    file.write_text(json.dumps(told))
    assert build(tmp_path, need())[0].config.hidden_dropout_prob == 0.3
    assert build(tmp_path, need(), dropout=0.0)[0].config.hidden_dropout_prob == 0.0
