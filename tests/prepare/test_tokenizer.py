"""Tokenizers that are trained, the same each time, and tokenizers that are loaded."""

import json
import random
import subprocess
import sys
import unicodedata

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe, TrainTokenizer
from launcher.prepare import tokenizer

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
TRAINED = """
import json, sys
from launcher.config.recipe import TrainTokenizer
from launcher.prepare import tokenizer

texts = json.loads(sys.stdin.read())
for algorithm in ("wordpiece", "bpe"):
    made = tokenizer.train(TrainTokenizer(algorithm=algorithm, vocab_size=300), lambda: texts)
    print(json.dumps(made.backend_tokenizer.to_str()))
"""


def texts():
    """Made-up words in some scripts, with accents, punctuation and characters that are words of their own."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghijäöéñжщяβλδ", k=draw.randint(1, 7))) for _ in range(120)]
    return [" ".join(draw.choices([*words, "İ", "don't", "東京", "😀"], k=12)).title() for _ in range(150)]


def trained(algorithm, given=None, **keys):
    given = texts() if given is None else given
    return tokenizer.train(TrainTokenizer(algorithm=algorithm, **{"vocab_size": 300, **keys}), lambda: iter(given))


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def made(request):
    return trained(request.param)


def test_training_gives_the_same_tokenizers_in_another_process():
    command, given = [sys.executable, "-c", TRAINED], json.dumps(texts())
    answer = subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
    for algorithm, line in zip(("wordpiece", "bpe"), answer.splitlines(), strict=True):
        there, here = json.loads(json.loads(line)), json.loads(trained(algorithm).backend_tokenizer.to_str())
        assert there == here, algorithm


def test_special_tokens_come_first_and_are_known_as_such(made):
    assert made.convert_tokens_to_ids(SPECIAL) == [0, 1, 2, 3, 4]
    assert sorted(made.all_special_tokens) == sorted(SPECIAL)
    names = (made.unk_token, made.cls_token, made.sep_token, made.pad_token, made.mask_token)
    assert list(names) == SPECIAL
    assert list(made.added_tokens_decoder) == [0, 1, 2, 3, 4]


def test_a_mask_token_in_a_text_stays_whole(made):
    ids = made("ab [MASK] cd")["input_ids"]
    assert ids.count(made.mask_token_id) == 1


def test_one_text_stands_between_cls_and_sep(made):
    ids = made("abc")["input_ids"]
    assert (ids[0], ids[-1]) == (made.cls_token_id, made.sep_token_id)
    assert not {made.cls_token_id, made.sep_token_id} & set(ids[1:-1])


def test_two_texts_are_told_apart_by_their_types(made):
    pair = made("abc", "de")
    first, second = made("abc")["input_ids"], made("de")["input_ids"]
    assert pair["input_ids"] == first + second[1:]
    assert pair["token_type_ids"] == [0] * len(first) + [1] * (len(second) - 1)


def test_the_vocabulary_is_as_large_as_was_asked_for(made):
    assert len(made) == 300
    assert sorted(made.get_vocab().values()) == list(range(300))


@pytest.fixture(scope="module")
def cased():
    """A BPE tokenizer that changes no letter."""
    return trained("bpe", ["The first Word and the last"], vocab_size=280, lowercase=False)


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "[" not in text))
def test_any_text_comes_back_from_bytes(cased, text):
    ids = cased(text)["input_ids"]
    decoded = cased.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert decoded == unicodedata.normalize("NFC", text)
    assert cased.unk_token_id not in ids


def test_wordpiece_gives_back_words_without_case_and_accents():
    made = trained("wordpiece")
    for text in texts()[:20]:
        bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)).lower()
        decoded = made.decode(made(text)["input_ids"], skip_special_tokens=True)
        assert decoded.replace(" ", "") == bare.replace(" ", "")


def test_wordpiece_keeps_case_and_accents_where_it_is_told_to():
    made = trained("wordpiece", ["Äpfel und Öl"] * 3, lowercase=False)
    assert made.decode(made("Öl und Äpfel")["input_ids"], skip_special_tokens=True) == "Öl und Äpfel"


def test_characters_that_are_words_of_their_own_take_no_place_inside_words():
    vocabulary = trained("wordpiece").get_vocab()
    assert {"東", "京", "'", "##β", "##a"} <= set(vocabulary)
    assert not {"##東", "##'", "## "} & set(vocabulary)


def test_a_word_of_unseen_characters_is_unknown_to_wordpiece_alone(cased):
    assert trained("wordpiece")("ωωω")["input_ids"] == [1, 0, 2]
    assert 0 not in cased("ωωω")["input_ids"]


def test_words_below_the_smallest_frequency_are_cut(cased):
    given = ["often often often seldom"]
    assert trained("wordpiece", given, min_frequency=1).tokenize("often seldom") == ["often", "seldom"]
    assert len(trained("wordpiece", given, min_frequency=2).tokenize("seldom")) > 1


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe"])
def test_what_is_saved_is_loaded_as_it_was(algorithm, tmp_path):
    made = trained(algorithm)
    made.save_pretrained(tmp_path)
    loaded = tokenizer.load(str(tmp_path), "tokenizer.name")
    for pair in zip(texts()[:10], texts()[10:20], strict=True):
        assert dict(loaded(*pair)) == dict(made(*pair))
    assert loaded.all_special_ids == made.all_special_ids


def test_a_folder_without_a_tokenizer_is_told_with_its_key(tmp_path):
    with pytest.raises(UserError, match=rf"^tokenizer\.name: no tokenizer at {tmp_path}: "):
        tokenizer.load(str(tmp_path), "tokenizer.name")


def test_a_tokenizer_of_the_hub_that_cannot_be_had_is_told():
    with pytest.raises(UserError, match=r"^tokenizer: no tokenizer at nobody/nothing: "):
        tokenizer.load("nobody/nothing", "tokenizer")


def recipe(**changes):
    return Recipe.model_validate(support.mlm(**changes))


def test_the_source_is_what_the_recipe_says_or_the_models_own():
    assert tokenizer.source(recipe()) == TrainTokenizer(vocab_size=120)
    assert tokenizer.source(recipe(tokenizer={"kind": "pretrained", "name": "./words"})) == "./words"
    own = recipe(tokenizer=None, model={"kind": "pretrained", "name": "some/model"})
    assert tokenizer.source(own) == "some/model"
    of_run = recipe(tokenizer=None, model={"kind": "run", "run": "runs/one"})
    assert tokenizer.source(of_run) == "runs/one/tokenizer"


def test_a_recipe_without_any_tokenizer_is_told_what_it_may_have():
    with pytest.raises(UserError, match=r"^tokenizer: missing: a model of kind config brings none"):
        tokenizer.source(recipe(tokenizer=None))


def test_the_fingerprint_of_a_folder_is_that_of_every_file_the_tokenizer_is_made_of(tmp_path):
    trained("wordpiece").save_pretrained(tmp_path)
    config = recipe(tokenizer={"kind": "pretrained", "name": str(tmp_path)})
    found = [tokenizer.fingerprint(config)]
    (tmp_path / "model.safetensors").write_bytes(b"weights are none of it")
    assert tokenizer.fingerprint(config) == found[0]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with (tmp_path / name).open("a") as file:
            file.write(" ")
        found.append(tokenizer.fingerprint(config))
    (tmp_path / "vocab.txt").write_text("[UNK]")
    found.append(tokenizer.fingerprint(config))
    assert len(set(found)) == 4


def test_the_fingerprint_of_a_folder_does_not_know_its_name(tmp_path):
    found = set()
    for name in ("one", "other"):
        trained("wordpiece", ["a b c"]).save_pretrained(tmp_path / name)
        found.add(tokenizer.fingerprint(recipe(tokenizer={"kind": "pretrained", "name": str(tmp_path / name)})))
    assert len(found) == 1


def test_the_fingerprint_of_the_hub_is_the_name_and_of_training_its_configuration():
    name = {"kind": "pretrained", "name": "some/words"}
    assert tokenizer.fingerprint(recipe(tokenizer=name)) == "some/words"
    changed = [{}, {"vocab_size": 121}, {"lowercase": False}, {"algorithm": "bpe"}, {"min_frequency": 3}]
    trained_ones = [{"kind": "train", "vocab_size": 120, **change} for change in changed]
    assert len({tokenizer.fingerprint(recipe(tokenizer=config)) for config in trained_ones}) == 5
