"""Models of images: they have no vocabulary, and a shape."""

import copy

import pytest
import torch

from launcher.config.errors import UserError
from launcher.models import config, pretrained

RESNET18 = {
    "type": "resnet", "depths": [2, 2, 2, 2], "layer_type": "basic", "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
}  # fmt: skip
VIT = {"type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEN = {"num_labels": 10, "id2label": {n: str(n) for n in range(10)}, "label2id": {str(n): n for n in range(10)}}


def made(need, **keys):
    return config.Model(config.Config(**keys)).build(need)


def mistake(need, **keys):
    with pytest.raises(UserError) as told:
        made(need, **keys)
    return str(told.value)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_a_resnet_18_from_its_configuration(images, norm):
    model, _ = made(images((1, 28, 28), **TEN), **RESNET18, batch_norm=norm)
    assert sum(p.numel() for p in model.parameters()) == 11_181_642 - 2 * 64 * 49  # of one channel in place of three
    assert model.config.num_channels == 1
    assert model.train()(pixel_values=torch.randn(2, 1, 28, 28)).logits.shape == (2, 10)


def test_a_resnet_18_of_a_folder_gets_a_head_of_ten(images, tmp_path):
    before, _ = made(images(), **RESNET18, batch_norm="frozen")
    before.save_pretrained(tmp_path)
    model, notes = pretrained.Model(pretrained.Config(name=str(tmp_path), freeze=["resnet"])).build(images(**TEN))
    assert notes[0] == f"new weights, not in {tmp_path}: classifier.1.bias, classifier.1.weight"
    assert notes[1].startswith("batch norms normalise nothing")  # the folder's were never trained
    assert notes[2:] == [
        "frozen: 60 of 62 tensors (11,176,512 of 11,181,642 parameters); "
        "trained: classifier.1.weight, classifier.1.bias",
    ]
    here, there = model.resnet.state_dict(), before.resnet.state_dict()
    assert all(torch.equal(tensor, there[name]) for name, tensor in here.items())
    assert model(pixel_values=torch.randn(2, 3, 32, 32)).logits.shape == (2, 10)


def test_the_shape_of_images_goes_to_the_configuration_unless_it_is_given(images):
    model, _ = made(images((1, 32, 16)), **VIT, patch_size=8)
    assert (model.config.num_channels, model.config.image_size) == (1, (32, 16))
    assert model(pixel_values=torch.randn(2, 1, 32, 16)).logits.shape == (2, 3)
    assert made(images(), **VIT, patch_size=8)[0].config.image_size == 32
    assert made(images(), **VIT, patch_size=8, image_size=64)[0].config.image_size == 64


def test_images_that_a_model_does_not_take_are_reported_when_it_is_counted(images):
    with torch.device("meta"):
        told = mistake(images(), **VIT, patch_size=8, image_size=64)
        assert told.startswith("model: ViTForImageClassification does not take images of 3 x 32 x 32: Input image size")
        told = mistake(images((1, 32, 32)), **RESNET18, num_channels=3, batch_norm="frozen")
    assert told.startswith("model: ResNetForImageClassification does not take images of 1 x 32 x 32: ")


def test_a_resnet_that_mixes_samples_is_refused_with_what_to_do(images):
    told = "model.batch_norm: mixes the samples of a micro-batch, so that ranks would change what is learnt ("
    assert mistake(images(), **RESNET18).startswith(told)


def test_a_model_of_texts_is_refused(images):
    assert "AutoModelForImageClassification" in mistake(images(), type="bert")


def test_the_layers_of_a_resnet_are_its_stages(resnet, images, tmp_path):
    resnet.save_pretrained(tmp_path)
    keys = {"name": str(tmp_path), "batch_norm": "frozen", "reinit_layers": 1}
    model, notes = pretrained.Model(pretrained.Config(**keys)).build(images())
    changed = {n for n, t in model.state_dict().items() if n in resnet.state_dict() and "classifier" not in n
               and not torch.equal(t, resnet.state_dict()[n])}  # fmt: skip
    assert changed and all(name.startswith("resnet.encoder.stages.1.") for name in changed)
    assert any("running_mean" in name for name in changed)
    assert notes[1].startswith("new weights, as the recipe says: resnet.encoder.stages.1.")


def test_a_copy_of_an_adapted_resnet_is_adapted(resnet, images, tmp_path):
    resnet.save_pretrained(tmp_path)
    keys = {"name": str(tmp_path), "adapter": {"kind": "lora", "r": 2, "targets": ["convolution"]}}
    model, _ = pretrained.Model(pretrained.Config(**keys)).build(images())
    twin = copy.deepcopy(model).train()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(twin(pixel_values=x).logits, model.train()(pixel_values=x).logits)


def test_a_resnet_has_no_linear_layer_to_adapt_by_itself(resnet, images, tmp_path):
    resnet.save_pretrained(tmp_path)
    with pytest.raises(UserError) as told:
        pretrained.Model(pretrained.Config(name=str(tmp_path), adapter={"kind": "lora"})).build(images())
    assert str(told.value) == (
        "model.adapter.targets: ResNetModel has no linear layer: name some (there are: convolution)"
    )
