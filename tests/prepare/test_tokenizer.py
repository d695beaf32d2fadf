"""Trained tokenizers, the same each time, and loaded ones."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import unicodedata

import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import PretrainedTokenizer, TrainTokenizer
from launcher.prepare import tokenizer

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
ALGORITHMS = ["wordpiece", "bpe", "unigram"]
TRAINED = """
import hashlib, json, sys, tempfile
from pathlib import Path
from launcher.config.tokenizer import TrainTokenizer
from launcher.prepare import tokenizer

texts, found = json.loads(sys.stdin.read()), {}
for keys in json.loads(sys.argv[1]):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.train(TrainTokenizer(**keys), lambda: iter(texts)).save_pretrained(folder)
        files = sorted(Path(folder).iterdir())
        found[json.dumps(keys)] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
print(json.dumps(found))
"""


def texts():
    """Random words in several scripts, with accents, punctuation and ideographs."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghijäöéñжщяβλδ", k=draw.randint(1, 7))) for _ in range(120)]
    return [" ".join(draw.choices([*words, "İ", "don't", "東京", "😀"], k=12)).title() for _ in range(150)]


def trained(algorithm, given=None, **keys):
    given = texts() if given is None else given
    return tokenizer.train(TrainTokenizer(algorithm=algorithm, **{"vocab_size": 300, **keys}), lambda: iter(given))


@pytest.fixture(scope="module", params=ALGORITHMS)
def made(request):
    return trained(request.param)


def elsewhere(given, configs, **variables):
    """Train in another process. Returns the digests of the saved files."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"} | variables
    command = [sys.executable, "-c", TRAINED, json.dumps(configs)]
    answer = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(answer.stdout)


def rare():
    """Words of equal counts with parts of equal counts, so that many pieces are equally good."""
    draw = random.Random(1)
    parts = ["".join(draw.choices("abcdefgh", k=draw.choice([1, 2, 3]))) for _ in range(60)]
    words = ["".join(draw.choices(parts, k=draw.randint(1, 4))) for _ in range(1500)]
    signs = [chr(0x4E00 + n) for n in range(40)]
    return [
        " ".join([*words[n : n + 20], signs[n % 40], "ø", "e\u0301", "a\u0303q\u0308"])
        for n in range(0, len(words), 20)
    ]


def test_training_gives_the_same_files_in_every_process(tmp_path):
    configs = [
        {"algorithm": algorithm, "vocab_size": size, **more}
        for algorithm in ALGORITHMS
        for size, more in ((320, {}), (700, {"unicode": "nfkc", "strip_accents": False}), (380, {"lowercase": False}))
    ]
    given = texts() + rare()
    threads = [{"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "2"}, {"TOKENIZERS_PARALLELISM": "false"}]
    first, *others = [elsewhere(given, configs, **variables) for variables in threads]
    assert others == [first, first]
    for keys in configs[::3]:
        tokenizer.train(TrainTokenizer(**keys), lambda: iter(given)).save_pretrained(tmp_path / keys["algorithm"])
        digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (tmp_path / keys["algorithm"]).iterdir()}
        assert digests == first[json.dumps(keys)]


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


def test_a_sample_too_small_gives_fewer_tokens():
    for algorithm in ALGORITHMS:
        assert len(trained(algorithm, ["often often seldom"], vocab_size=5000)) < 300


UNIGRAM = [
    ("Ａﬁ Äb\u200bc  d\ne", {}, "afi ab c d e"),
    ("Äb İc", {"strip_accents": False}, "äb i̇c"),
    ("Äb", {"lowercase": False}, "Äb"),
    ("Äb 각", {"lowercase": False, "strip_accents": True}, "Ab 각"),
    ("ﬁ\u00a0B", {"unicode": "none"}, "ﬁ b"),
]


@pytest.mark.parametrize(("text", "keys", "normal"), UNIGRAM)
def test_unigram_knows_the_form_that_sentencepiece_gives_a_text(text, keys, normal):
    made = trained("unigram", [normal, normal], vocab_size=60, **keys)
    assert made.decode(made(f" {text} ")["input_ids"], skip_special_tokens=True) == normal


def test_a_piece_of_unigram_begins_a_word_or_not_and_never_mixes_letters_and_punctuation():
    made = trained("unigram", ["(the word), the word. (the words)"] * 20, vocab_size=60)
    pieces = [piece for piece in made.get_vocab() if piece not in SPECIAL]
    assert {"▁the", "▁(", "),"} <= set(pieces)
    assert [piece for piece in pieces if not re.fullmatch(r"▁?(\w*|[^\w▁]*)", piece)] == []
    assert "".join(made.tokenize("the  (word),")) == "▁the▁(word),"


def test_unigram_merges_no_words_of_unseen_characters_and_takes_the_frequent_ones_where_few_fit():
    made = trained("unigram", ["aaaa bbb cc d efghijklmnop"], vocab_size=12)
    assert set(made.get_vocab()) == {*SPECIAL, "▁", "a", "b", "c", "d", "e", "f"}
    assert made("aω")["input_ids"][2:-1] == [made.convert_tokens_to_ids("a"), 0]


def test_unigram_finds_the_parts_of_words():
    draw = random.Random(3)
    starts, ends = ["play", "walk", "jump", "call", "paint"], ["ing", "ed", "er", "ers"]
    given = [" ".join(draw.choice(starts) + draw.choice(ends) for _ in range(40)) for _ in range(30)]
    made = trained("unigram", given, vocab_size=30)
    assert {f"▁{start}" for start in starts} | {"ing"} <= set(made.get_vocab())
    assert made.tokenize("walking") == ["▁walk", "ing"]


NORMAL = [
    ("wordpiece", {}, "Ａﬁ Äb", "ａﬁ ab"),
    ("wordpiece", {"unicode": "none"}, "Ａﬁ Äb", "ａﬁ ab"),
    ("wordpiece", {"unicode": "nfkc"}, "Ａﬁ Äb 각", "afi ab 각"),
    ("wordpiece", {"strip_accents": False, "unicode": "nfc"}, "A\u0308b", "äb"),
    ("wordpiece", {"strip_accents": True, "lowercase": False}, "Äb", "Ab"),
    ("bpe", {}, "Äb A\u0308", "äb a\u0308"),
    ("bpe", {"lowercase": False}, "A\u0308b", "Äb"),
    ("bpe", {"lowercase": False, "unicode": "none"}, "A\u0308b", "A\u0308b"),
    ("bpe", {"unicode": "nfd"}, "Äb", "a\u0308b"),
    ("bpe", {"unicode": "nfkd", "strip_accents": True}, "ﬁ Äb", "fi ab"),
]


@pytest.mark.parametrize(("algorithm", "keys", "text", "normal"), NORMAL)
def test_a_text_is_brought_to_the_form_that_is_asked_for(algorithm, keys, text, normal):
    made = trained(algorithm, [text] * 3, **keys)
    assert made.backend_tokenizer.normalizer.normalize_str(text) == normal
    assert made.unk_token_id not in made(text)["input_ids"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
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
    assert tokenizer.source(recipe(tokenizer={"kind": "pretrained", "name": "./words"})) == PretrainedTokenizer(
        name="./words"
    )
    own = recipe(tokenizer=None, model={"kind": "pretrained", "name": "some/model"})
    assert tokenizer.source(own) == PretrainedTokenizer(name="some/model")
    at = recipe(tokenizer=None, model={"kind": "pretrained", "name": "some/model", "revision": "v2"})
    assert tokenizer.source(at) == PretrainedTokenizer(name="some/model", revision="v2")
    of_run = recipe(tokenizer=None, model={"kind": "run", "run": "runs/one"})
    assert tokenizer.source(of_run) == PretrainedTokenizer(name="runs/one/tokenizer")


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
    assert tokenizer.fingerprint(recipe(tokenizer={**name, "revision": "v2"})) == "some/words@v2"
    changed = [{}, {"vocab_size": 121}, {"lowercase": False}, {"algorithm": "bpe"}, {"min_frequency": 3}]
    changed += [{"unicode": "nfc"}, {"strip_accents": False}, {"sample": 10}]
    trained_ones = [{"kind": "train", "vocab_size": 120, **change} for change in changed]
    assert len({tokenizer.fingerprint(recipe(tokenizer=config)) for config in trained_ones}) == 8


def test_the_revision_goes_to_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name, **keys: asked.append((name, keys)))
    for revision in ("v2", None):
        with pytest.raises(UserError, match=r"^tokenizer\.name: some/words: has no fast tokenizer"):
            tokenizer.load(PretrainedTokenizer(name="some/words", revision=revision), "tokenizer.name")
    assert [(name, keys["revision"]) for name, keys in asked] == [("some/words", "v2"), ("some/words", "main")]


def test_a_vocabulary_is_no_larger_than_asked_whatever_the_characters():
    texts = [f"{chr(0x4E00 + n)} common words {chr(0x400 + n % 200)}{chr(0x500 + n % 150)}" for n in range(2000)]
    made = tokenizer.train(TrainTokenizer(vocab_size=100), lambda: texts)
    assert len(made) <= 100
    assert made.tokenize("common") != ["[UNK]"]
