"""On which side a model's rows may be padded, and how long they may be, is found by trying a tiny copy of it."""

import pytest
import torch
import transformers

from launcher.config.errors import UserError
from launcher.models import config
from launcher.plan import _tiny_model
from launcher.plan.model_requirements import ModelRequirements
from launcher.plan.padding_probe import Padding, probe

CLASSES = {"num_labels": 2, "problem_type": "single_label_classification"}
CLASSIFICATION, MLM = "AutoModelForSequenceClassification", "AutoModelForMaskedLM"


def need(auto_class=CLASSIFICATION, max_length=64, **given):
    options = CLASSES if auto_class == CLASSIFICATION else {}
    ids = {"begin_token_id": 2, "end_token_id": 3} | given
    return ModelRequirements(auto_class, options, 3000, 0, max_length, **ids)


def side(type_, wanted, **keys):
    """What a tiny copy of a model of this type shows."""
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type=type_, **keys)).build(wanted, weights=False)
    return _tiny_model.padding(model, wanted)


@pytest.mark.parametrize(
    ("type_", "auto_class", "expected"),
    [
        ("bert", CLASSIFICATION, Padding.RIGHT),
        ("bert", MLM, Padding.RIGHT),
        ("roberta", MLM, Padding.RIGHT),
        ("modernbert", CLASSIFICATION, Padding.RIGHT),
        ("deberta-v2", CLASSIFICATION, Padding.RIGHT),
        ("mobilebert", MLM, Padding.RIGHT),
        ("gpt2", CLASSIFICATION, Padding.RIGHT),
        ("bart", CLASSIFICATION, Padding.RIGHT),
        ("t5", "AutoModelForSeq2SeqLM", Padding.RIGHT),
        ("xlnet", CLASSIFICATION, Padding.LEFT),
        ("fnet", CLASSIFICATION, Padding.NONE),
        ("fnet", MLM, Padding.NONE),
        ("convbert", CLASSIFICATION, Padding.NONE),
    ],
)
def test_the_side_that_changes_no_output_is_found(type_, auto_class, expected):
    assert side(type_, need(auto_class)) is expected


def test_a_convolution_reaches_the_first_token_of_the_shortest_rows_alone():
    assert side("convbert", need(CLASSIFICATION), num_hidden_layers=1, conv_kernel_size=9) is Padding.NONE


@pytest.mark.parametrize(
    ("type_", "keys", "positions"),
    [
        ("gpt2", {"n_positions": 32}, 32),
        ("bart", {"max_position_embeddings": 32}, 32),
        ("opt", {"max_position_embeddings": 32}, 32),
        ("bert", {"max_position_embeddings": 32}, 32),
        ("roberta", {"max_position_embeddings": 34}, 33),
        ("xlm", {"max_position_embeddings": 32}, 32),
    ],
)
def test_positions_are_counted_whatever_their_table_is_called(type_, keys, positions):
    assert side(type_, need(max_length=positions), **keys) is Padding.RIGHT
    with pytest.raises(UserError, match=rf"{positions + 1} tokens, but \w+ has positions for {positions} \(shorter"):
        side(type_, need(max_length=positions + 1), **keys)


def test_a_decoder_needs_positions_for_targets_alone():
    """Of a model whose encoder and decoder have tables of their own."""
    keys = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 16, "attention_window": [16] * 2}
    keys |= {"encoder_layers": 2, "decoder_layers": 2, "d_model": 32}

    def wanted(length, target):
        return ModelRequirements("AutoModelForSeq2SeqLM", {}, 300, 1, length, end_token_id=2, target_length=target)

    def tried(length, target):
        with torch.device("meta"):
            model, _ = config.Model(config.Config(type="led", **keys)).build(wanted(64, 16), weights=False)
        return _tiny_model.padding(model, wanted(length, target))

    assert tried(64, 16) is Padding.RIGHT
    for length, target, key in ((64, 17, "task.max_target_length: 17"), (65, 16, "data.max_length: 65")):
        with pytest.raises(UserError, match=rf"{key} tokens, but LEDFor\w+ has positions for "):
            tried(length, target)
        with torch.device("meta"), pytest.raises(UserError, match=rf"{key} tokens, but LEDFor\w+ has positions for "):
            config.Model(config.Config(type="led", **keys)).build(wanted(length, target), weights=False)


def test_what_a_model_cannot_compute_is_refused_where_the_data_is_known(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise ValueError("All examples must have the same number of <eos> tokens.")

    monkeypatch.setattr(transformers.BartForSequenceClassification, "forward", refuse)
    with pytest.raises(UserError, match="BartForSequenceClassification cannot compute a sample of 64 tokens: All ex"):
        side("bart", need(), d_model=64)
    assert side("bart", need(guessed=True), d_model=64) is None
    assert side("bart", need()) is None  # only smaller copies of it were tried, which may be why


def test_a_model_that_depends_on_the_length_of_its_rows_has_no_side():
    """As block-sparse attention does, which short rows go without."""

    class Sparse(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return input_ids.double() * (1 if input_ids.shape[1] < 14 else 2)

    assert probe(Sparse(), {"input_ids": torch.arange(1, 9)[None]}, 0, 16) is Padding.NONE


@pytest.mark.parametrize("last", [0, 119, 255])
def test_a_sample_ends_with_the_end_token_wherever_it_is_in_the_vocabulary(last):
    wanted = ModelRequirements(
        CLASSIFICATION, CLASSES, last + 1 if last else 300, 0 if last else 1, 64, end_token_id=last
    )
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type="bart", d_model=16)).build(wanted, weights=False)
    assert _tiny_model.padding(model, wanted) is Padding.RIGHT


def test_trying_uses_no_generator_of_the_process():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    side("bert", need())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_trying_leaves_a_model_in_its_mode():
    model = torch.nn.Linear(1, 1).train()
    assert probe(model, {"input_ids": torch.ones(1, 4, dtype=torch.long)}, 0, 8) is Padding.RIGHT
    assert model.training


@pytest.mark.soak
@pytest.mark.parametrize(("auto_class", "least"), [(CLASSIFICATION, 100), (MLM, 51)])
def test_every_architecture(auto_class, least):
    """The table of all types that `model: config` builds for a task."""
    types = sorted({one.model_type for one in getattr(transformers, auto_class)._model_mapping})
    assert len(types) >= least
    print(f"\n{auto_class}: {len(types)} types")
    for type_ in types:
        try:
            found = side(type_, need(auto_class)) or "untried"
        except UserError as error:
            found = f"refused: {error}"
        except Exception as error:
            found = f"cannot be built: {type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
        print(f"{type_:<26} {found}")
        assert found in (*Padding, "untried") or found.startswith(("refused", "cannot be built"))
