"""The model of another run goes on: its encoder as it was trained, a new head where the task needs one."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer

from launcher.config.errors import UserError
from launcher.models import run


def build(folder, need, **keys):
    return run.build(run.Config(run=str(getattr(folder, "path", folder)), **keys), need)


@pytest.mark.parametrize(
    ("keys", "step"),
    [({}, 6), ({"checkpoint": "latest"}, 6), ({"checkpoint": "best"}, 4), ({"checkpoint": 2}, 2)],
    ids=str,
)
def test_the_weights_are_those_of_the_checkpoint_that_is_named(trained, need, keys, step):
    folder, weights = trained
    model, (note,) = build(folder, need(), **keys)
    assert note.endswith(f"weights taken from {folder.checkpoints}/step-0000000{step}")
    assert all(torch.equal(tensor, weights[step][name]) for name, tensor in model.state_dict().items())


def test_a_classifier_takes_the_encoder_and_gets_a_head_of_its_own(trained, need):
    folder, weights = trained
    model, (taken, new) = build(folder, need(labels=True))
    old = {name: tensor for name, tensor in model.state_dict().items() if name in weights[6]}
    assert all(torch.equal(tensor, weights[6][name]) for name, tensor in old.items())
    assert taken.startswith(f"{len(old)} weights taken from ")
    names = sorted(name for name, _ in model.named_parameters() if name not in weights[6])
    assert new == f"new weights, not in it: {', '.join(names)}"
    assert names == [
        "bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight",
    ]  # fmt: skip


def test_random_weights_take_the_architecture_alone(trained, need, bert):
    folder, weights = trained
    torch.manual_seed(11)
    model, notes = build(folder, need(), weights="random")
    fresh = bert(seed=11).state_dict()
    assert notes == []
    assert model.state_dict().keys() == weights[6].keys()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in model.state_dict().items())


def test_the_new_head_is_drawn_alike_whether_the_encoder_is_trained_or_random(trained, need):
    heads = []
    for kind in ("trained", "random"):
        torch.manual_seed(11)
        heads.append(build(trained[0], need(labels=True), weights=kind)[0].classifier.weight)
    assert torch.equal(*heads)


def test_the_architecture_is_found_without_any_checkpoint(trained, need, tmp_path):
    folder, _ = trained
    (tmp_path / "model").symlink_to(folder.model)
    model, notes = run.build(run.Config(run=str(tmp_path)), need(), weights=False)
    assert (type(model).__name__, notes) == ("BertForMaskedLM", [])
    with pytest.raises(UserError, match=r"^model\.checkpoint: .*no whole checkpoint in it"):
        build(tmp_path, need())


def test_a_checkpoint_that_is_not_there_is_told_with_those_there_are(trained, need):
    with pytest.raises(UserError, match=r"^model\.checkpoint: .*step 5 \(there are: 2, 4, 6, latest, best\)"):
        build(trained[0], need(), checkpoint=5)


def test_a_folder_without_a_run_is_told(need, tmp_path):
    with pytest.raises(UserError, match=rf"^model\.run: {tmp_path}: no run is there \(train it first"):
        build(tmp_path, need())


def test_a_damaged_checkpoint_is_refused(trained, need, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0].path, folder)
    file = next((folder / "checkpoints" / "step-00000006").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: damaged"):
        build(folder, need())
    assert build(folder, need(), checkpoint=4)


def test_a_larger_vocabulary_than_the_runs_is_refused(trained, need):
    with pytest.raises(UserError, match=r"^tokenizer: .*61 tokens, the model embeds 60"):
        build(trained[0], need(vocab_size=61))


def test_its_tokenizer_is_that_of_the_run(trained, words):
    name = run.tokenizer(run.Config(run=str(trained[0].path)))
    assert AutoTokenizer.from_pretrained(name).get_vocab() == words.get_vocab()
