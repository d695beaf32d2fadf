"""The model of another run goes on: its encoder as it was trained, a new head where the task needs one."""

import json
import shutil

import pytest
import torch
from ruamel.yaml import YAML
from transformers import AutoTokenizer

from launcher.config import kinds
from launcher.config.errors import UserError
from launcher.distributed.process_group import ProcessGroup
from launcher.models import run
from launcher.storage.run_dir import RunDir
from launcher.train import checkpoint


def build(folder, need, **keys):
    return run.Model(run.Config(run=str(getattr(folder, "path", folder)), **keys)).build(need)


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
    model, notes = run.Model(run.Config(run=str(tmp_path))).build(need(), weights=False)
    assert (type(model).__name__, notes) == ("BertForMaskedLM", [])
    with pytest.raises(UserError, match=r"^model\.checkpoint: .*no whole checkpoint in it"):
        build(tmp_path, need())


def test_a_checkpoint_that_is_not_there_is_reported_with_those_there_are(trained, need):
    with pytest.raises(UserError, match=r"^model\.checkpoint: .*step 5 \(there are: 2, 4, 6, latest, best\)"):
        build(trained[0], need(), checkpoint=5)


def test_a_folder_without_a_run_is_reported(need, tmp_path):
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
    name = run.Model(run.Config(run=str(trained[0].path))).tokenizer()
    assert AutoTokenizer.from_pretrained(name).get_vocab() == words.get_vocab()


@pytest.fixture
def ran(tmp_path):
    """A run of one checkpoint, of a model by its recipe: its folder and the model as it was trained."""

    def make(need, **keys):
        folder = RunDir(tmp_path / "ran")
        folder.checkpoints.mkdir(parents=True)
        with folder.recipe.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump({"name": "ran", "model": keys}, file)
        module = kinds.module("models", keys["kind"])
        torch.manual_seed(3)
        model, _ = module.Model(module.Config.model_validate(keys)).build(need)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter) if parameter.requires_grad else 0)
        state = {"step": 2, "evaluation": {}}
        tensors = {
            f"model.{name}": t.detach().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]
        }
        checkpoint.save(folder, tensors, json.loads(json.dumps(state)), 1, ProcessGroup(0, 1, torch.device("cpu")))
        if hasattr(model, "config"):
            model.config.save_pretrained(folder.model)
        return folder, model.eval()

    return make


IDS = torch.tensor([[1, 5, 2, 9]])


def test_the_adapter_of_a_run_is_merged_before_its_encoder_goes_on(saved, need, ran):
    folder, model = ran(need(), kind="pretrained", name=str(saved), adapter={"kind": "lora", "r": 2})
    after, notes = build(folder, need())
    torch.testing.assert_close(after.eval()(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)
    assert len(notes) == 1
    assert all(p.requires_grad for p in after.parameters())
    again, _ = build(folder, need(), adapter={"kind": "ia3"})
    torch.testing.assert_close(again.eval()(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)
    assert any("ia3" in name for name, _ in again.named_parameters())


def test_a_classifier_takes_on_an_adapted_encoder_and_its_new_weights_train(saved, need, ran):
    adapter = {"kind": "lora", "r": 2, "targets": ["query", "dense"]}
    folder, model = ran(need(), kind="pretrained", name=str(saved), adapter=adapter)
    after, notes = build(folder, need(labels=True), adapter={"kind": "lora"})
    there = model.base_model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(after.eval().base_model(input_ids=IDS).last_hidden_state, there, rtol=1e-5, atol=1e-5)
    assert notes[1] == (
        "new weights, not in it: bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight"
    )
    assert after.bert.pooler.dense.weight.requires_grad
    assert build(folder, need(labels=True), weights="random")[0].state_dict().keys() == (
        build(folder, need(labels=True))[0].state_dict().keys()
    )


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_a_run_of_images_goes_on_with_its_statistics_or_its_groups(resnet, images, ran, tmp_path, norm):
    resnet.save_pretrained(tmp_path / "resnet")
    folder, model = ran(images(), kind="pretrained", name=str(tmp_path / "resnet"), batch_norm=norm)
    x = torch.randn(2, 3, 32, 32)
    after, _ = build(folder, images(), batch_norm=norm if norm == "frozen" else None)
    assert torch.equal(after.train()(pixel_values=x).logits, model(pixel_values=x).logits)


@pytest.mark.parametrize("keys", [{}, {"adapter": {"kind": "lora", "targets": ["hidden0"]}}, {"freeze": ["hidden0"]}])
def test_a_run_of_another_kind_of_model_goes_on(images, ran, keys):
    folder, model = ran(images((5,)), kind="small", type="mlp", **keys)
    after, notes = build(folder, images((5,)))
    x = torch.randn(2, 5)
    torch.testing.assert_close(after(x=x), model(x=x))
    assert all(p.requires_grad for p in after.parameters())
    assert notes[0].startswith(("4 weights", "6 weights"))
    other, notes = build(folder, images((5,), num_labels=7), freeze=["hidden0"])
    assert other(x=x).shape == (2, 7)
    assert notes[1] == "new weights, not in it: head.bias, head.weight"
    assert run.Model(run.Config(run=str(folder.path))).tokenizer() is None


def test_what_only_transformers_models_can_use_is_refused_for_others(images, ran):
    folder, _ = ran(images((5,)), kind="small", type="mlp")
    for keys, told in (
        ({"head": "new"}, r"^model\.head: ConvMlp is no transformers model"),
        ({"reinit_layers": 1}, r"^model\.reinit_layers: ConvMlp is no transformers model"),
        ({"dropout": 0.1}, r"^model\.dropout: the model of .* is a small one: only transformers models"),
    ):
        with pytest.raises(UserError, match=told):
            build(folder, images((5,)), **keys)
