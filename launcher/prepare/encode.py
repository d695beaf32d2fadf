"""Encoding of texts to token ids, a batch at a time.

A text is split where its tokenizer provably treats the two sides separately, mostly at whitespace. Each distinct piece
is encoded once; all others are lookups in arrays. Natural text repeats its words so often that this is several times
faster than encoding every text. Without this guarantee, texts are encoded whole. The ids are the same either way.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from launcher.prepare import split_rules
from launcher.prepare.token_arrays import (
    PairTemplate,
    TokenArrays,
    concatenate,
    interleave,
    join,
    no_texts,
    prefixed,
    take,
)

_MOST_PIECES, _MOST_CHARACTERS = 2**19, 2**24
"""Limits of the cache: pieces, of some 150 bytes each, and their characters. A text without a space is one piece."""

TRAINING_SUFFIX = "training_suffix"
"""Key of tokenizer_config.json in an export: the token that training adds after a text. The exported tokenizer itself
adds none, since a model that continues texts must not see it."""

_AT_ONCE = 2**19
"""Characters that the tokenizer encodes at a time, and the length of the longest text that it encodes whole."""

_WORDS_AT_ONCE, _LONGEST_WORD = 1000, 500
"""Words that are encoded as one text, and the characters of the longest. Such a text is encoded whole."""

# Texts on which both ways of encoding are compared before the faster one is used.
_TRICKY = (
    "Two  words,\tthree\r\n\r\nlines ", " don't \u03a3\u0391\u03a3 \u03a3 e\u0301\u00a0x\u3000y  ",
    "a\x0bb\x0cc\x1cd \u2028e", "\u4e2d\u6587 \u5b57 x\u4e2d \u00e9 \U0001f642 \U0001f469\u200d\U0001f467 1,000.5",
    "", " ", "x" * 200 + " '' ' s 't", "[MASK] <mask>[CLS] a <s>  </s> b", "\u0301 \u0301a  \u0308",
    "\ufb01 \ufb03 \u00bd \u00a8 \uff21\uff22 \u0130 \u0131",
)  # fmt: skip


class Encoder:
    """A tokenizer from a folder. `prefix` and `suffix`: the special tokens around a text. `special_words`: a pattern
    that matches special tokens inside a text."""

    _known: dict[str, int]
    _pieces: TokenArrays
    _characters: int

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.backend: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.backend.no_padding()
        self.backend.no_truncation()
        self.vocab_size: int = self.backend.get_vocab_size()
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._inputs = settings.get("model_input_names", [])
        self.gives_types = "token_type_ids" in self._inputs
        self.prefix, self.suffix = self._around(settings.get("eos_token"), settings.get(TRAINING_SUFFIX))
        spec = json.loads(self.backend.to_str())
        self._rule = split_rules.of(spec)
        byte_level = [one for one in split_rules.parts(spec["pre_tokenizer"]) if one["type"] == "ByteLevel"]
        self._spaced = any(not one.get("add_prefix_space") for one in byte_level)  # its words begin with a space
        names = [re.escape(token["content"]) for token in spec["added_tokens"]]
        self._whole = "|".join(names) or r"[^\s\S]"  # words that a split might divide
        special = [re.escape(token["content"]) for token in spec["added_tokens"] if token["special"]]
        self.special_words = "|".join(special) or r"[^\s\S]"
        self._forget()
        if self._rule is not None and not self._exact():
            self._rule = None

    def encode(self, texts: pa.Array) -> TokenArrays:
        """Encode texts (large_string), without special tokens."""
        if self._rule is None or not len(texts):
            return self._encode_whole(texts.to_pylist())
        whole = pc.match_substring_regex(texts, self._whole, ignore_case=True)
        if not pc.any(whole).as_py():
            return self._encode_by_pieces(texts)
        apart = self._encode_whole(texts.filter(whole).to_pylist())
        return interleave(self._encode_by_pieces(texts.filter(pc.invert(whole))), apart, np.asarray(whole))

    def words(self, rows: pa.ListArray) -> tuple[TokenArrays, NDArray[np.int64]]:
        """Encode texts that are lists of words, each word by itself, without special tokens. Returns the tokens and,
        for each token, the number of its word in the text, from 1."""
        words, counts = rows.flatten().cast(pa.large_string()), rows.value_lengths().to_numpy()
        each = self.encode(prefixed(" ", words) if self._spaced else words)
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        numbers = np.arange(1, len(words) + 1) - np.repeat(first[:-1], counts)
        return TokenArrays(each.ids, each.offsets[first], each.begins), np.repeat(numbers, each.lengths)

    def spans(self, texts: Sequence[str]) -> tuple[TokenArrays, NDArray[np.int64]]:
        """Encode texts without special tokens. Returns the tokens and their character ranges, shape (tokens, 2)."""
        made, found = no_texts(), [np.empty((0, 2), dtype=np.int64)]
        for group in _groups(texts):
            encodings = self.backend.encode_batch(group, add_special_tokens=False)
            made = concatenate(made, join(encodings))
            found += [np.array(one.offsets, dtype=np.int64).reshape(-1, 2) for one in encodings]
        return made, np.concatenate(found)

    def frame(self) -> PairTemplate:
        """Return the special tokens around a pair of texts."""
        made = self.backend.encode("a", "a")
        sides = np.array([-1 if side is None else side for side in made.sequence_ids])
        first, second = np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)
        cuts = [0, first[0], first[-1] + 1, second[0], second[-1] + 1, len(sides)]
        ids, types = np.array(made.ids, dtype=np.uint32), np.array(made.type_ids, dtype=np.uint8)
        return PairTemplate(
            special=tuple(ids[cuts[n] : cuts[n + 1]] for n in (0, 2, 4)),
            types=tuple(types[a:b] for a, b in pairwise(cuts)) if "token_type_ids" in self._inputs else None,
        )

    def pairs(self, texts: pa.Array, others: pa.Array, max_length: int) -> tuple[TokenArrays, NDArray[np.bool_]]:
        """Encode pairs of texts with special tokens. The longer text is truncated first. Returns the tokens, and
        whether each pair was truncated."""
        self.backend.enable_truncation(max_length)
        try:
            made = self.backend.encode_batch(list(zip(texts.to_pylist(), others.to_pylist(), strict=True)))
        finally:
            self.backend.no_truncation()
        encoded = join(made)
        types = None
        if "token_type_ids" in self._inputs:
            types = np.concatenate([np.asarray(e.type_ids, dtype=np.uint8) for e in made])
        truncated = np.array([bool(e.overflowing) for e in made], dtype=np.bool_)
        return TokenArrays(encoded.ids, encoded.offsets, encoded.begins, types), truncated

    def _around(
        self, end: dict[str, str] | str | None, suffix: str | None
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return the special tokens before and after a text. If the tokenizer adds none (GPT-2), its end token follows
        a text. `suffix`: a token that only training adds after a text."""
        bare = self.backend.encode("a", add_special_tokens=False).ids
        full = self.backend.encode("a").ids
        at = next(n for n in range(len(full)) if full[n : n + len(bare)] == bare)
        before, after = full[:at], full[at + len(bare) :]
        eos = self.backend.token_to_id(end["content"] if isinstance(end, dict) else end) if end else None
        if suffix is not None and not after:
            after = [self.backend.token_to_id(suffix)]
        elif not before and not after and eos is not None:
            after = [eos]
        return np.asarray(before, dtype=np.uint32), np.asarray(after, dtype=np.uint32)

    def _encode_whole(self, texts: Sequence[str]) -> TokenArrays:
        """Encode each text with the tokenizer alone, without the cache of pieces. Texts are passed in groups with a
        limited number of characters, since encoding takes about 300 bytes of memory for each character."""
        cut = [pieces(text, _AT_ONCE) for text in texts]
        first = np.cumsum([0, *map(len, cut)])
        made = no_texts()
        for group in _groups([piece for parts in cut for piece in parts]):
            more = join(self.backend.encode_batch(group, add_special_tokens=False))  # its fast variant has no words
            made = concatenate(made, more) if len(made) else more
        return take(made, np.arange(len(made)), first)

    def _encode_by_pieces(self, texts: pa.Array) -> TokenArrays:
        assert self._rule is not None
        pieces, first = self._rule.cut(texts)
        distinct = pieces.dictionary_encode()
        encoded, numbers = self._encode_pieces(distinct.dictionary.to_pylist())
        return take(encoded, numbers[np.asarray(distinct.indices)], first)

    def _encode_pieces(self, words: list[str]) -> tuple[TokenArrays, NDArray[np.int64]]:
        """Encode pieces. Returns encoded pieces, and the index of each word among them. The first pieces stay in the
        cache, since they are the frequent ones of natural text. If most words are new, a full cache is emptied."""
        found = np.fromiter(map(self._known.get, words, repeat(-1)), dtype=np.int64, count=len(words))
        missing = np.flatnonzero(found < 0)
        if self._full() and len(missing) > len(words) / 2:
            self._forget()
            missing = np.arange(len(words))
        new = [words[number] for number in missing]
        pieces = concatenate(self._pieces, self._encode_new(new)) if new else self._pieces
        found[missing] = len(self._known) + np.arange(len(new))
        if not self._full():
            self._known.update(zip(new, found[missing].tolist(), strict=True))
            self._pieces = pieces
            self._characters += sum(map(len, new))
        return pieces, found

    def _encode_new(self, pieces: list[str]) -> TokenArrays:
        """Encode pieces that are not in the cache. Words are encoded as texts of many words, which takes half the time,
        if the tokenizer finds as many words in them."""
        joins = self._rule is not None and self._rule.joins
        words = np.array(
            [joins and len(piece) <= _LONGEST_WORD and piece.isascii() and piece.isalnum() for piece in pieces]
        )
        chosen = [piece for piece, word in zip(pieces, words, strict=True) if word]
        lines = [" ".join(chosen[at : at + _WORDS_AT_ONCE]) for at in range(0, len(chosen), _WORDS_AT_ONCE)]
        joined = self._encode_whole(lines)
        starts = np.flatnonzero(joined.begins)
        if not chosen or len(starts) != len(chosen):
            return self._encode_whole(pieces)
        each = TokenArrays(joined.ids, np.append(starts, len(joined.ids)), joined.begins)
        others = self._encode_whole([piece for piece, word in zip(pieces, words, strict=True) if not word])
        return interleave(each, others, ~words)

    def _full(self) -> bool:
        return len(self._known) >= _MOST_PIECES or self._characters >= _MOST_CHARACTERS

    def _forget(self) -> None:
        self._known = dict[str, int]()
        self._pieces, self._characters = no_texts(), 0

    def _exact(self) -> bool:
        texts = pa.array(_TRICKY, pa.large_string())
        fast, plain = self.encode(texts), self._encode_whole(_TRICKY)
        self._forget()
        return all(np.array_equal(getattr(fast, name), getattr(plain, name)) for name in ("ids", "offsets", "begins"))


def pieces(text: str, most: int) -> list[str]:
    """Split a text of more than `most` characters, which a tokenizer cannot encode whole, at spaces if there are any.
    Tokens may differ from those of the whole text only at these places."""
    found, start = [], 0
    while len(text) - start > most:
        space = text.rfind(" ", start + 1, start + most)
        end = space if space > 0 else start + most
        found.append(text[start:end])
        start = end
    return [*found, text[start:]]


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Group texts, in their order, up to a number of characters."""
    group, size = list[str](), 0
    for text in texts:
        if group and size + len(text) > _AT_ONCE:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group
