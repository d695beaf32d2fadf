"""Encoding by pieces gives the tokens of the tokenizer itself."""

import json

import numpy as np
import pyarrow as pa
import pytest
import support
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from launcher.config.tokenizer import TrainTokenizer
from launcher.prepare import encode, tokenizer
from launcher.prepare.encode import Encoder

TEXTS = [
    " ".join(support.WORDS),
    "Don't they'll It's 'quoted' 1,000.5 caf\u00e9 na\u00efve \u00c9t\u00e9 stra\u00dfe \u4e2d\u6587\u5b57",
    "def f(x):\n    return x + 1\n\n\tprint('a  b')\r\n",
]
SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u2029\u200b\u3000\ufeff"
SPECIAL = ["[MASK]", "[CLS]", "[sep]", "<mask>", "<s>", "</s>", "<|endoftext|>", "[UNK]", "new_word", "Two Words"]

words = st.one_of(
    st.sampled_from(["the", "a", "it's", "'s", "\u03a3\u0391\u03a3", "1,000.5", "\u4e2d\u6587", "...", "x" * 150]),
    st.sampled_from(SPECIAL),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text("e\u0301\u0308\u0130\u0131\ufb01\u1e9b\u0323\u1100\u1161\u11a8\u0345", max_size=5),
)
spaces = st.one_of(st.just(" "), st.text(SPACES, max_size=4))
documents = st.lists(st.tuples(words, spaces).map("".join), max_size=12).map("".join)
batches = st.lists(documents, max_size=5)
properties = settings(deadline=None, max_examples=120)


def trained(algorithm, **options):
    config = TrainTokenizer(algorithm=algorithm, vocab_size=400, min_frequency=1, **options)
    return tokenizer.train(config, lambda: iter(TEXTS))


def fast(model, trainer, pre_tokenizer, normalizer=None, around=None, **special):
    """Build a tokenizer. `around`: the special tokens before and after a text."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator(TEXTS, trainer)
    if around:
        ids = [(token, backend.token_to_id(token)) for token in around]
        single = f"{around[0]} $A {around[1]}"
        backend.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} {around[1]} $B {around[1]}", special_tokens=ids
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def byte_level(prefix, around=("<s>", "</s>"), **special):
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return fast(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=prefix), around=around, **special)


def roberta(prefix):
    made = byte_level(prefix, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    made.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True, normalized=False, special=True)})
    return made


def gpt2():
    return byte_level(False, around=None, eos_token="<|endoftext|>")


def unigram_of_parts():
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return fast(models.Unigram(), trainer, pre_tokenizers.Metaspace(), unk_token="<unk>")


def whitespace(splitter, normalizer=None):
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[PAD]"], show_progress=False)
    return fast(models.WordPiece(unk_token="[UNK]"), trainer, splitter, normalizer, unk_token="[UNK]")


def normalized_added():
    made = trained("wordpiece")
    made.add_tokens([AddedToken("new_word", normalized=True), AddedToken("Two Words", normalized=True)])
    return made


def raw_added():
    made = trained("wordpiece")
    more = [AddedToken("new_word", normalized=False, single_word=True), AddedToken("two words", normalized=False)]
    made.add_tokens([*more, AddedToken("\u4e2d\u6587", normalized=False, rstrip=True)])
    return made


def first_word_apart():
    """A pre-tokenizer that marks the first word of a text: its pieces depend on their place."""
    parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
    return whitespace(pre_tokenizers.Sequence(parts))


MADE = {
    "wordpiece": lambda: trained("wordpiece"),
    "wordpiece cased": lambda: trained("wordpiece", lowercase=False),
    "wordpiece nfkc": lambda: trained("wordpiece", unicode="nfkc"),
    "bpe": lambda: trained("bpe"),
    "bpe cased": lambda: trained("bpe", lowercase=False),
    "unigram": lambda: trained("unigram"),
    "roberta": lambda: roberta(False),
    "roberta with a space before": lambda: roberta(True),
    "gpt2": gpt2,
    "unigram of sentencepiece": unigram_of_parts,
    "whitespace": lambda: whitespace(pre_tokenizers.Whitespace()),
    "whitespace and digits": lambda: whitespace(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]),
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    ),
    "a rule of its own": lambda: whitespace(pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")),
    "first word apart": first_word_apart,
    "normalized added tokens": normalized_added,
    "raw added tokens": raw_added,
}
BY_PIECES = [
    *("wordpiece", "wordpiece cased", "wordpiece nfkc", "bpe", "bpe cased", "roberta", "gpt2"),
    *("whitespace", "whitespace and digits", "raw added tokens"),
]
WHOLE = ["unigram", "unigram of sentencepiece", "a rule of its own", "first word apart", "normalized added tokens"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a tokenizer, built on first use."""
    known = {}

    def folder(name):
        if name not in known:
            known[name] = tmp_path_factory.mktemp("tokenizer")
            MADE[name]().save_pretrained(known[name])
        return known[name]

    return folder


@pytest.fixture(scope="module")
def encoders(saved):
    known = {}
    return lambda name: known.setdefault(name, None) or known.update({name: Encoder(saved(name))}) or known[name]


def array(texts):
    return pa.array(texts, pa.large_string())


def equal(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("ids", "offsets", "begins"))


@pytest.mark.parametrize("name", MADE)
def test_it_equals_the_tokenizers_own_encoding(encoders, name):
    encoder = encoders(name)

    @properties
    @given(batches)
    @example([""])
    @example(["", "", " "])
    @example(["a ", "b", " ", "", " a", "a"])
    @example(["the \x0b a\u2028the\xa0a\x0c \x1cthe  ", "\u0301 \u0301a", " \u0301"])
    @example(["a [MASK] b", "the <mask>", " <mask> a", "[mask]"])
    def check(texts):
        assert equal(encoder.encode(array(texts)), encoder._encode_whole(texts)), texts

    check()


@pytest.mark.parametrize("name", BY_PIECES)
def test_these_are_encoded_by_pieces(encoders, name):
    assert encoders(name)._rule is not None


@pytest.mark.parametrize("name", WHOLE)
def test_these_are_encoded_whole(encoders, name):
    assert encoders(name)._rule is None


@pytest.mark.parametrize("name", ["wordpiece", "roberta", "unigram"])
def test_a_slice_of_an_array_is_encoded_as_what_it_holds(encoders, name):
    texts = ["the first", "", "  the second", "a [MASK] <mask>", "the last "]
    for start in range(len(texts)):
        found = encoders(name).encode(array(texts)[start : start + 2])
        assert equal(found, encoders(name)._encode_whole(texts[start : start + 2]))


@pytest.mark.parametrize("name", MADE)
def test_special_tokens_stand_around_a_text_as_the_tokenizer_puts_them(saved, encoders, name):
    text, encoder = "the first rank, and the last", encoders(name)
    around = encoder.encode(array([text])).between(encoder.prefix, encoder.suffix)
    expected = AutoTokenizer.from_pretrained(saved(name))(text)["input_ids"]
    assert around.ids.tolist() == expected + (encoder.suffix.tolist() if name == "gpt2" else [])


def test_where_there_are_no_special_tokens_the_end_token_ends_a_text(encoders):
    encoder = encoders("gpt2")
    assert encoder.prefix.tolist() == []
    assert encoder.suffix.tolist() == [encoder.backend.token_to_id("<|endoftext|>")]


@pytest.mark.parametrize("name", ["wordpiece", "roberta", "unigram", "raw added tokens"])
def test_pairs_equal_those_of_transformers(saved, encoders, name):
    encoder, own = encoders(name), AutoTokenizer.from_pretrained(saved(name))

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(documents, documents), min_size=1, max_size=4), st.integers(5, 40))
    def check(pairs, most):
        texts, others = map(list, zip(*pairs, strict=True))
        expected = own(texts, others, truncation=True, max_length=most)  # alone, an empty second text is none to it
        found, cut = encoder.pairs(array(texts), array(others), most)
        whole = own(texts, others, truncation=True, max_length=10_000)["input_ids"]
        assert cut.tolist() == [len(one) > most for one in whole]
        assert (found.types is None) == ("token_type_ids" not in expected)
        for number in range(len(pairs)):
            here = slice(*found.offsets[number : number + 2])
            assert found.ids[here].tolist() == expected["input_ids"][number]
            assert found.types is None or found.types[here].tolist() == expected["token_type_ids"][number]

    check()


def test_pairs_leave_single_texts_as_they_were(encoders):
    encoder, long = encoders("wordpiece"), array([" ".join(support.WORDS)])
    before = encoder.encode(long)
    encoder.pairs(long, long, 8)
    assert equal(encoder.encode(long), before)
    assert equal(encoder._encode_whole(long.to_pylist()), before)


def strange(count, size=4):
    return array([" ".join(f"{n:0{size}}" for n in range(at, at + 10)) for at in range(0, 10 * count, 10)])


@pytest.mark.parametrize(("limit", "most"), [("_MOST_PIECES", 50), ("_MOST_CHARACTERS", 200)])
def test_no_more_than_so_many_pieces_are_remembered(saved, monkeypatch, limit, most):
    monkeypatch.setattr(encode, limit, most)
    encoder, texts = Encoder(saved("wordpiece")), strange(100)
    for at in range(0, 100, 2):
        assert equal(encoder.encode(texts[at : at + 2]), encoder._encode_whole(texts[at : at + 2].to_pylist()))
        assert len(encoder._known) == len(encoder._pieces) <= 50 + 20
        assert sum(map(len, encoder._known)) <= 200 + 20 * 4


def test_long_pieces_are_not_remembered_for_long(saved, monkeypatch):
    monkeypatch.setattr(encode, "_MOST_CHARACTERS", 10_000)
    encoder = Encoder(saved("bpe"))
    for text in ("".join(map(chr, range(at, at + 3000))) for at in range(0x4E00, 0x9000, 3000)):
        assert equal(encoder.encode(array([text])), encoder._encode_whole([text]))
        assert sum(map(len, encoder._known)) <= 13_000


def test_each_piece_is_encoded_once(saved, monkeypatch):
    encoder, seen = Encoder(saved("wordpiece")), []
    plainly = encoder._encode_whole
    monkeypatch.setattr(encoder, "_encode_whole", lambda texts: seen.extend(" ".join(texts).split()) or plainly(texts))
    for _ in range(3):
        encoder.encode(array(["the first and  the last", "the last"] * 20))
    assert sorted(seen) == ["and", "first", "last", "the"]


@pytest.mark.parametrize("name", ["wordpiece", "whitespace", "whitespace and digits", "raw added tokens"])
def test_words_that_are_encoded_together_have_the_tokens_of_each(saved, monkeypatch, name):
    monkeypatch.setattr(encode, "_WORDS_AT_ONCE", 3)
    encoder = Encoder(saved(name))
    texts = [
        "the Rank2 and  new word, two " + "x" * 501,
        "na\u00efve last, the first 3rd " + "y" * 500 + " it's Two words",
    ]
    assert equal(encoder.encode(array(texts)), encoder._encode_whole(texts))


def test_words_are_encoded_a_thousand_at_a_time(saved, monkeypatch):
    encoder, seen = Encoder(saved("wordpiece")), []
    plainly = encoder._encode_whole
    monkeypatch.setattr(encoder, "_encode_whole", lambda texts: seen.extend(texts) or plainly(texts))
    encoder.encode(array([" ".join(f"w{n}" for n in range(2001)) + " \u00e9"]))
    assert [len(text.split()) for text in seen] == [1000, 1000, 1, 1]


def test_a_word_without_tokens_takes_none_of_its_neighbours(tmp_path):
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<pad>"], show_progress=False)
    fast(models.BPE(), trainer, pre_tokenizers.Whitespace(), pad_token="<pad>").save_pretrained(tmp_path)
    encoder, texts = Encoder(tmp_path), ["the 77 first 888 last", "888 the 99", "999"]
    assert len(encoder._encode_whole(["888"]).ids) == 0
    assert encoder._rule.joins
    assert equal(encoder.encode(array(texts)), encoder._encode_whole(texts))


def test_a_tokenizer_that_pads_and_truncates_by_itself_does_not_here(saved, tmp_path):
    made = AutoTokenizer.from_pretrained(saved("wordpiece"))
    made.backend_tokenizer.enable_padding(length=16)
    made.backend_tokenizer.enable_truncation(4)
    made.save_pretrained(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    texts = ["the first and the last rank of the first and the last node", "a"]
    assert equal(Encoder(tmp_path).encode(array(texts)), Encoder(saved("wordpiece")).encode(array(texts)))


def test_decoders_play_no_part(saved, tmp_path):
    made = AutoTokenizer.from_pretrained(saved("bpe"))
    made.backend_tokenizer.decoder = decoders.ByteLevel()
    made.save_pretrained(tmp_path)
    assert equal(Encoder(tmp_path).encode(array(["the a"])), Encoder(saved("bpe")).encode(array(["the a"])))


@pytest.mark.parametrize("name", ["wordpiece", "roberta"])
def test_texts_are_given_to_the_tokenizer_some_at_a_time(saved, monkeypatch, name):
    monkeypatch.setattr(encode, "_AT_ONCE", 40)
    encoder, texts = Encoder(saved(name)), [*TEXTS, "", "rank " * 30, "x" * 35]
    assert equal(encoder._encode_whole(texts), join_whole(encoder, texts))


def join_whole(encoder, texts):
    return encode.join(encoder.backend.encode_batch(texts, add_special_tokens=False))


def test_a_long_text_without_a_space_loses_nothing(saved, monkeypatch):
    monkeypatch.setattr(encode, "_AT_ONCE", 10)
    encoder, text = Encoder(saved("roberta")), "abcde" * 20
    ids = encoder.encode(array([text])).ids.tolist()
    assert encoder.backend.decode(ids, skip_special_tokens=False).replace(" ", "") == text


def test_ideographs_are_pieces_of_their_own_for_bert(saved):
    encoder = Encoder(saved("wordpiece"))
    encoder.encode(array(["\u6587\u5b57\u4f53 a\u6587b"]))
    assert max(map(len, encoder._known)) <= 2
