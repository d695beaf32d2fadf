"""Small models of numbers and images."""

import pytest
import torch
from pydantic import ValidationError

from launcher.config.errors import UserError
from launcher.models import small


def build(need, **keys):
    return small.Model(small.Config(**keys)).build(need)[0]


def mistake(need, **keys):
    with pytest.raises(UserError) as told:
        build(need, **keys)
    return str(told.value)


@pytest.mark.parametrize(
    ("keys", "shape", "weights"),
    [
        ({"type": "linear"}, (5,), {"head": (3, 5)}),
        ({"type": "linear"}, (2, 4, 4), {"head": (3, 32)}),
        ({"type": "mlp"}, (5,), {"hidden0": (256, 5), "head": (3, 256)}),
        ({"type": "mlp", "hidden": [7, 6]}, (2, 4, 4), {"hidden0": (7, 32), "hidden1": (6, 7), "head": (3, 6)}),
        (
            {"type": "cnn", "channels": [4, 8], "hidden": [6]}, (1, 28, 20),
            {"convolution0": (4, 1, 3, 3), "convolution1": (8, 4, 3, 3), "hidden0": (6, 8 * 7 * 5), "head": (3, 6)},
        ),
        ({"type": "cnn", "channels": [4], "hidden": []}, (1, 5, 5), {"convolution0": (4, 1, 3, 3), "head": (3, 16)}),
    ],
    ids=str,
)  # fmt: skip
def test_its_weights_are_those_requested_and_it_gives_a_logit_for_each_label(images, keys, shape, weights):
    model = build(images(shape), **keys)
    found = {name: tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")}
    assert found == {f"{name}.weight": size for name, size in weights.items()}
    assert model(anything=torch.randn(2, *shape)).shape == (2, 3)


def test_activation_and_dropout_are_those_requested(images):
    model = build(images((5,)), type="mlp", hidden=[4], activation="gelu", dropout=0.25)
    assert [type(m).__name__ for m in model] == ["Flatten", "Linear", "GELU", "Dropout", "Linear"]
    assert model.hidden0_dropout.p == 0.25


def test_keys_that_the_type_does_not_use_are_refused_all_at_once():
    with pytest.raises(ValidationError) as told:
        small.Config(type="linear", hidden=[4], dropout=0.1, chanels=[2])
    found = {error["loc"][0]: error["msg"] for error in told.value.errors()}
    assert found == {
        "hidden": "a linear model does not use it (of these keys it uses: none)",
        "dropout": "a linear model does not use it (of these keys it uses: none)",
        "chanels": "unknown key (did you mean channels?)",
    }
    with pytest.raises(ValidationError, match=r"a mlp model .* \(of these keys it uses: hidden, dropout, activation\)"):
        small.Config(type="mlp", channels=[2])


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn"])
def test_its_resolved_form_is_read_again(kind):
    made = small.Config(type=kind)
    assert small.Config.model_validate(made.model_dump()) == made


@pytest.mark.parametrize("keys", [{}, {"type": "rnn"}, {"type": "mlp", "hidden": [0]}, {"type": "cnn", "channels": []}])
def test_mistakes_are_refused(keys):
    with pytest.raises(ValidationError):
        small.Config(**keys)


def test_what_does_not_fit_is_reported(images, need):
    assert mistake(images((5,)), type="cnn") == (
        "model.type: a cnn needs channels x height x width, a sample is 5 (take mlp)"
    )
    assert mistake(images((3, 32, 3)), type="cnn", channels=[4, 4]) == (
        "model.channels: halved 2 times, nothing is left of 3 x 32 x 3"
    )
    assert mistake(need(labels=True), type="mlp") == (
        "model: a small model turns numbers of one shape into labels, which is not what this task needs"
    )
