"""Parameters by part, of models of many architectures on the meta device."""

import pytest
import support
import torch
import transformers

from launcher.models import small
from launcher.plan import parameter_parts
from launcher.plan.model_requirements import ModelRequirements

LAYERS = {"embeddings", "layers", "head"}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TINY = {key: value for key, value in support.TINY.items() if key != "dropout"}
VIT = {"image_size": 8, "patch_size": 4}


def built(kind, auto, **keys):
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(kind, **(keys or TINY)))


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (("bert", "AutoModelForMaskedLM"), LAYERS),
        (("bert", "AutoModelForSequenceClassification"), LAYERS | {"other"}),  # the pooler
        (("roberta", "AutoModelForTokenClassification"), LAYERS),
        (("electra", "AutoModelForMaskedLM"), LAYERS | {"other"}),  # embeddings are projected to the width
        (("modernbert", "AutoModelForMaskedLM"), LAYERS | {"other"}),  # the last normalization
        (("gpt2", "AutoModelForCausalLM", GPT2), {"embeddings", "layers", "other"}),  # the head is the embeddings
        (("t5", "AutoModelForSeq2SeqLM", T5), {"embeddings", "layers", "decoder layers", "other"}),
        (("vit", "AutoModelForImageClassification", {**VIT, **TINY}), LAYERS | {"other"}),
    ],
)  # fmt: skip
def test_each_parameter_has_one_part(model, parts):
    kind, auto, *keys = model
    module = built(kind, auto, **(keys[0] if keys else {}))
    found = parameter_parts.count(module)
    assert sum(found.values()) == sum(parameter.numel() for parameter in module.parameters())
    assert {"embeddings", "layers"} <= set(found) and all(found.values())
    assert parts is None or set(found) == parts


def test_an_adapter_is_a_part_of_its_own():
    import peft

    model = built("bert", "AutoModelForSequenceClassification")
    layers = parameter_parts.count(model)["layers"]
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["query", "value"]), model)
    found = parameter_parts.count(adapted)
    assert found["adapter"] == 2 * 2 * 2 * (16 + 16)  # layers x maps x rank x (inputs + outputs)
    assert found["layers"] == layers


def test_a_model_without_an_encoder_is_counted_by_its_modules():
    config = small.Config(type="mlp", hidden=[8])
    model, _ = small.Model(config).build(ModelRequirements("", {"num_labels": 2}, 0, 0, 1, (4,)), weights=False)
    found = parameter_parts.count(model)
    assert sum(found.values()) in (0, sum(parameter.numel() for parameter in model.parameters()))
    assert parameter_parts.count(torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(3, 1)})) == {
        "a": 9, "b": 4,
    }  # fmt: skip
