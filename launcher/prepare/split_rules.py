"""Places where a text may be split for a tokenizer, because it provably treats the two sides separately."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from launcher.config.types import JsonObject

_LOCAL_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
_BYTE = np.arange(256)
_ASCII = _BYTE < 128
_BLANK, _SPACE, _APOSTROPHE = np.isin(_BYTE, [9, 10, 13, 32]), _BYTE == 32, _BYTE == 39
_DIGIT = (_BYTE >= 48) & (_BYTE < 58)
_LETTER = ((_BYTE >= 65) & (_BYTE < 91)) | ((_BYTE >= 97) & (_BYTE < 123))
_IDEOGRAPH = (_BYTE >= 0xE5) & (_BYTE <= 0xE9)  # the first byte of U+5000 to U+9FFF in UTF-8
_MARK = (_BYTE > 32) & (_BYTE < 127) & ~_DIGIT & ~_LETTER


@dataclass(frozen=True)
class Rule:
    """Pairs of neighbouring bytes at which a text may be split: those whose entries in the tables have a bit in common.

    `left`, `right`: tables for the first and the second byte, 256 entries each. Bit 0: a split before the first byte;
    other bits: between the bytes. `blank`: whether whitespace only separates words, and is removed from pieces.
    `joins`: whether letters and digits without whitespace are always one word.
    """

    left: bytes
    right: bytes
    blank: bool
    joins: bool

    def cut(self, texts: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
        """Split texts. Returns all pieces, and the index of the first piece of each text, shape (texts + 1,)."""
        offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
        data = np.frombuffer(texts.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        here = np.zeros(len(data) + 1, dtype=np.bool_)
        if len(data) > 1:
            text = data.tobytes()  # bytes.translate is faster than indexing a table of pairs
            left, right = (np.frombuffer(text.translate(table), dtype=np.uint8) for table in (self.left, self.right))
            common = left[:-1] & right[1:]
            here[:-2] = common & 1
            here[offsets[1:] - 1] = False  # the next byte belongs to another text
            here[1:-1] |= common > 1
        here[offsets] = True  # an empty text has no piece: it begins where the next one does
        cuts = np.flatnonzero(here)
        buffers = pa.py_buffer(cuts.astype(np.int64)), pa.py_buffer(data)
        pieces = pa.LargeStringArray.from_buffers(len(cuts) - 1, *buffers)
        return pc.ascii_trim(pieces, " \t\n\r") if self.blank else pieces, np.searchsorted(cuts, offsets)


def of(spec: JsonObject) -> Rule | None:
    """Determine where texts may be split for a tokenizer; None: nowhere. `spec`: the content of tokenizer.json.

    BERT's pre-tokenizer drops whitespace and isolates punctuation marks; its normalizer isolates ideographs. GPT-2's
    pre-tokenizer attaches one space to the word after it, so that a split before that space changes nothing; and a word
    does not continue into a punctuation mark, except for the apostrophe of a contraction.
    """
    normalizers, splitters = _types(spec["normalizer"]), parts(spec["pre_tokenizer"])
    if not set(normalizers) <= _LOCAL_NORMALIZERS or any(token["normalized"] for token in spec["added_tokens"]):
        return None
    kinds = [splitter["type"] for splitter in splitters]
    if kinds and kinds[0] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
        joins = len(kinds) == 1 and not any(set(token["content"]) & set(" \t\r\n") for token in spec["added_tokens"])
        between = [(_MARK, _ASCII), (_ASCII, _MARK)] if kinds == ["BertPreTokenizer"] else []
        if any(part["type"] == "BertNormalizer" and part["handle_chinese_chars"] for part in parts(spec["normalizer"])):
            between.append((_BYTE >= 0, _IDEOGRAPH))
        return Rule(*_tables((_BLANK, ~_BLANK), *between), blank=True, joins=joins)
    if kinds == ["ByteLevel"] and splitters[0].get("use_regex", True) and spec["model"]["type"] == "BPE":
        tables = _tables((_SPACE, _LETTER | _MARK | _DIGIT), (_LETTER, _MARK & ~_APOSTROPHE))
        return Rule(*tables, blank=False, joins=False)
    return None


def _tables(*pairs: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> tuple[bytes, bytes]:
    """Return the tables of a rule. `pairs`: for each bit, the first and the second bytes, shape (256,) each."""
    left, right = np.zeros((2, 256), dtype=np.uint8)
    for bit, (first, second) in enumerate(pairs):
        left |= first.astype(np.uint8) << bit
        right |= second.astype(np.uint8) << bit
    return left.tobytes(), right.tobytes()


def parts(component: JsonObject | None) -> list[JsonObject]:
    """Return the parts of a normalizer or pre-tokenizer that is a sequence, else the component; empty for None."""
    if component is None:
        return []
    inner = component.get("normalizers", component.get("pretokenizers"))
    return [component] if inner is None else [part for one in inner for part in parts(one)]


def _types(component: JsonObject | None) -> list[str]:
    return [part["type"] for part in parts(component)]
