"""What is set on any architecture: its dropouts, and how long a sample may be."""

import dataclasses

import pytest
import torch
import transformers

from launcher.config.errors import UserError
from launcher.models import _transformers, config
from launcher.plan.model_requirements import ModelRequirements

LAYERS = {"num_hidden_layers": 1}
ARCHITECTURES = {
    "bert": LAYERS, "roberta": LAYERS, "distilbert": {"n_layers": 1}, "modernbert": LAYERS, "electra": LAYERS,
    "albert": LAYERS, "deberta-v2": LAYERS, "mpnet": LAYERS, "xlm-roberta": LAYERS, "camembert": LAYERS,
    "esm": LAYERS, "fnet": LAYERS, "convbert": LAYERS, "roformer": LAYERS, "big_bird": LAYERS, "yoso": LAYERS,
    "longformer": {**LAYERS, "attention_window": [8]}, "funnel": {"block_sizes": [1, 1]}, "nomic_bert": LAYERS,
}  # fmt: skip
RELATIVE = {"modernbert", "funnel", "nomic_bert"}  # no table of positions: any length will do


def need(kind="MaskedLM", max_length=16):
    options = {} if kind == "MaskedLM" else {"num_labels": 2}
    return ModelRequirements(f"AutoModelFor{kind}", options, 40, 1, max_length)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification"])
def test_a_dropout_reaches_every_dropout_of_every_architecture(kind, head):
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type=kind, dropout=0.375, **ARCHITECTURES[kind])).build(need(head))
    modules = {name: m for name, m in model.named_modules() if "dropout" in type(m).__name__.lower()}
    wrong = {name for name, m in modules.items() if getattr(m, "p", None) != 0.375}
    assert not wrong
    told = {name: value for name, value in model.config.to_dict().items() if "dropout" in name}
    assert {value for value in told.values() if isinstance(value, float)} == {0.375}, told


def test_a_dropout_reaches_those_that_are_abbreviated():
    keys = {"n_layer": 1, "n_embd": 16, "n_head": 2}
    model, _ = config.Model(config.Config(type="gpt2", dropout=0.375, **keys)).build(need("CausalLM"))
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.375}


def test_without_a_dropout_the_architectures_own_stay():
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type="bert", **LAYERS, attention_probs_dropout_prob=0.2)).build(need())
    assert (model.config.hidden_dropout_prob, model.config.attention_probs_dropout_prob) == (0.1, 0.2)


def tiny(kind, positions):
    widths = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, **ARCHITECTURES[kind]}
    if kind == "distilbert":
        widths = {"dim": 16, "n_heads": 2, "hidden_dim": 32, **ARCHITECTURES[kind]}
    if kind == "fnet":
        del widths["num_attention_heads"]
    keys = {**widths, "max_position_embeddings": positions, "dropout": 0.0}
    return config.Model(config.Config(type=kind, **keys)).build(need(max_length=1))[0].eval()


def allowed(model, length):
    try:
        _transformers.check_length(model, need(max_length=length))
    except UserError:
        return False
    return True


def runs(model, length):
    try:
        model(input_ids=torch.full((1, length), 7))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES.keys() - RELATIVE))
def test_a_sample_is_refused_exactly_where_the_model_would_fail_on_it(kind):
    model = tiny(kind, 24)
    lengths = range(18, 28)
    assert [allowed(model, n) for n in lengths] == [runs(model, n) for n in lengths]
    assert allowed(model, 18)
    assert not allowed(model, 27)


@pytest.mark.parametrize("kind", ["modernbert", "nomic_bert"])
def test_a_model_without_a_table_of_positions_takes_any_length(kind):
    model = tiny(kind, 24)
    assert allowed(model, 40)
    assert runs(model, 40)


@pytest.mark.parametrize(("keys", "rows"), [({}, 40), ({"vocab_size": 40}, 40), ({"vocab_size": 64}, 64)])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_a_vocabulary_has_the_rows_requested_and_else_as_many_as_the_tokenizer(kind, keys, rows):
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type=kind, **ARCHITECTURES[kind], **keys)).build(need())
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == rows
    assert model.config.pad_token_id == 1


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused():
    told = r"^model\.vocab_size: 39, but the tokenizer has 40 tokens \(at least that many, or leave it out\)$"
    with pytest.raises(UserError, match=told):
        config.Model(config.Config(type="bert", vocab_size=39, **LAYERS)).build(need())


@pytest.mark.parametrize(("keys", "rows"), [({}, 30522), ({"vocab_size": 64}, 64)])
def test_a_vocabulary_that_is_not_known_yet_is_the_architectures_own(keys, rows):
    unknown = dataclasses.replace(need(), vocab_size=0, pad_token_id=0)
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type="bert", **LAYERS, **keys)).build(unknown)
    assert model.get_input_embeddings().num_embeddings == rows


def test_a_sample_too_long_is_reported_with_what_to_do(bert):
    model = bert(max_position_embeddings=16)
    with pytest.raises(UserError) as told:
        _transformers.check_length(model, need(max_length=17))
    assert str(told.value) == (
        "data.max_length: 17 tokens, but BertForMaskedLM has positions for 16 "
        "(shorter samples, or more max_position_embeddings)"
    )


GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 5}
DECODER = {"type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}


def decoder(**keys):
    wanted = dataclasses.replace(need("CausalLM"), begin_token_id=2, end_token_id=3, generation=GREEDY)
    return config.Model(config.Config(**DECODER, **keys)).build(wanted)[0], wanted


def test_a_new_model_says_which_tokens_are_around_texts_and_how_it_goes_on_with_them():
    model, _ = decoder()
    for said in (model.config, model.generation_config):
        assert (said.bos_token_id, said.eos_token_id, said.pad_token_id) == (2, 3, 1)
    assert {key: getattr(model.generation_config, key) for key in GREEDY} == GREEDY


def test_an_id_that_the_recipe_names_stays_in_the_configuration():
    assert decoder(bos_token_id=7)[0].config.bos_token_id == 7


def test_an_id_beyond_the_vocabulary_is_the_tokenizers():
    model, wanted = decoder()
    model.config.eos_token_id = 50256
    assert _transformers.complete(model, wanted).config.eos_token_id == 3


def test_options_that_do_nothing_without_sampling_and_beams_are_not_kept_and_all_can_be_saved(tmp_path):
    model, wanted = decoder()
    model.generation_config.temperature, model.generation_config.early_stopping = 0.5, True
    _transformers.complete(model, wanted)
    assert (model.generation_config.temperature, model.generation_config.early_stopping) == (None, None)
    model.generation_config.save_pretrained(tmp_path)
    _transformers.save_configuration(model, tmp_path / "model")
    read = type(model.generation_config).from_pretrained(tmp_path / "model")
    assert {key: getattr(read, key) for key in GREEDY} == GREEDY


def test_the_kind_of_problem_of_a_start_model_is_not_kept():
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type="bert", problem_type="regression", **LAYERS)).build(need())
    assert model.config.problem_type is None


@pytest.mark.parametrize(
    ("attention", "told"),
    [
        (
            "flash_attention_2",
            r"model\.attention: FlashAttention2 has been toggled on, but it cannot be used .* installed",
        ),
        ("nonsense", r"model\.attention: Specified `attn_implementation=\"nonsense\"` is not supported"),
    ],
)
def test_an_attention_that_this_machine_lacks_is_one_line(attention, told):
    with pytest.raises(UserError, match=told):
        config.Model(config.Config(type="bert", attention=attention, **LAYERS)).build(need())


def test_a_kernel_that_cannot_be_loaded_is_one_line(monkeypatch):
    def fail(*given, **options):
        raise OSError("no connection to the hub\nand more")

    monkeypatch.setattr(transformers.AutoModelForMaskedLM, "from_config", fail)
    with pytest.raises(UserError) as refused:
        config.Model(config.Config(type="bert", attention="flash_attention_2", **LAYERS)).build(need())
    assert [str(problem) for problem in refused.value.problems] == ["model.attention: no connection to the hub"]
    with pytest.raises(OSError):
        config.Model(config.Config(type="bert", **LAYERS)).build(need())


def test_a_plan_builds_flash_attention_as_another_and_refuses_it_of_an_architecture_without():
    with torch.device("meta"):
        model, _ = config.Model(config.Config(type="bert", attention="flash_attention_2", **LAYERS)).build(need())
        assert model.config._attn_implementation == "sdpa"
        with pytest.raises(UserError, match="no flash attention for FNetForMaskedLM, so no flash_attention_3"):
            config.Model(config.Config(type="fnet", attention="flash_attention_3", **LAYERS)).build(need())
