"""What a model does with a sample is found by trying, whatever its architecture."""

import re

import pytest
import torch
import transformers

from launcher.config.errors import UserError
from launcher.train import model_probe

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
TWO_SIDED = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
MODELS = {
    "bert": SIZES,
    "roberta": SIZES,
    "electra": {**SIZES, "embedding_size": 8},
    "distilbert": {"vocab_size": 60, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {
        **SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
    },
    "albert": {**SIZES, "embedding_size": 8},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "bart": TWO_SIDED,
    "t5": {
        "vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "pad_token_id": 0,
        "decoder_start_token_id": 0,
    },
}  # fmt: skip
LAYERS = {
    "bert": [f"encoder.layer.{n}" for n in range(3)],
    "roberta": [f"encoder.layer.{n}" for n in range(3)],
    "electra": [f"encoder.layer.{n}" for n in range(3)],
    "distilbert": [f"transformer.layer.{n}" for n in range(3)],
    "modernbert": [f"layers.{n}" for n in range(3)],
    "albert": [],  # its one layer is called three times
    "deberta-v2": [f"encoder.layer.{n}" for n in range(3)],
    "bart": [f"{side}.layers.{n}" for side in ("encoder", "decoder") for n in range(2)],
    "t5": [f"{side}.block.{n}" for side in ("encoder", "decoder") for n in range(2)],
}


class Task:
    """The sum of squares of what the encoder (or decoder) says last."""

    def loss(self, model, example):
        return model(**example).last_hidden_state.square().sum(), None


@pytest.fixture(params=MODELS)
def made(request):
    """A model with its name, and a sample for it."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(request.param, **MODELS[request.param])
    model = transformers.AutoModel.from_config(config).train()
    sample = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    if request.param in ("bart", "t5"):
        sample["decoder_input_ids"] = torch.tensor([[5, 6]])
    return request.param, model, sample


def test_the_layers_are_the_repeated_blocks_that_are_called_once(made):
    name, model, sample = made
    found = model_probe.run(model, Task(), sample)
    assert list(found.layers) == LAYERS[name]
    assert all(model.get_submodule(layer) is block for layer, block in found.layers.items())


def test_what_is_not_reached_is_what_a_backward_leaves_without_a_gradient(made):
    _, model, sample = made
    found = model_probe.run(model, Task(), sample)
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    loss, _ = Task().loss(model, sample)
    assert model_probe.loss(model.train(), Task(), sample) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert model.training
    loss.backward()
    assert found.unreached == [name for name, p in model.named_parameters() if p.grad is None]


def test_a_pooler_is_not_reached():
    model = transformers.AutoModel.from_config(transformers.BertConfig(**SIZES))
    sample = {"input_ids": torch.tensor([[5, 6]])}
    assert model_probe.run(model, Task(), sample).unreached == ["pooler.dense.weight", "pooler.dense.bias"]


def test_linear_maps_are_told_in_the_order_in_which_they_ran(made):
    name, model, sample = made
    found = model_probe.run(model, Task(), sample)
    assert list(found.linears) == LAYERS[name]
    expected = {
        "bert": ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                 "intermediate.dense", "output.dense"],
        "modernbert": ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"],
        "distilbert": ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1",
                       "ffn.lin2"],
    }  # fmt: skip
    if name in expected:
        assert list(found.linears.values()) == [expected[name]] * 3


def test_trying_leaves_the_model_as_it_was(made):
    _, model, sample = made
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    state = torch.get_rng_state()
    model_probe.run(model, Task(), sample)
    assert model.training and all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_frozen_parameter_is_not_called_unreached():
    model = transformers.AutoModel.from_config(transformers.BertConfig(**SIZES))
    model.pooler.dense.bias.requires_grad_(False)
    model.embeddings.word_embeddings.weight.requires_grad_(False)
    sample = {"input_ids": torch.tensor([[5, 6]])}
    assert model_probe.run(model, Task(), sample).unreached == ["pooler.dense.weight"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.distributed.DistError("a peer is gone"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_device_is_no_mistake_of_the_model(error):
    with pytest.raises(type(error)) as raised, model_probe.reported(torch.nn.Linear(1, 1), "mlm"):
        raise error
    assert raised.value is error


def test_an_error_of_the_model_is_one_line_with_the_place():
    with pytest.raises(UserError) as raised, model_probe.reported(torch.nn.Linear(1, 1), "mlm"):
        raise KeyError("a\nb")
    assert re.fullmatch(r"model: Linear cannot compute a sample of mlm: KeyError: .* \(.*:\d+\)", str(raised.value))
