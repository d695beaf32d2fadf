"""Tokenizers: trained from the data, or loaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

from launcher.config import kinds
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import PretrainedTokenizer, Recipe, TrainTokenizer

_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def source(recipe: Recipe) -> TrainTokenizer | str:
    """How the recipe gets its tokenizer: by training, or from this folder or hub name."""
    if isinstance(recipe.tokenizer, TrainTokenizer):
        return recipe.tokenizer
    if isinstance(recipe.tokenizer, PretrainedTokenizer):
        return recipe.tokenizer.name
    return str(kinds.of("models", recipe.model).tokenizer(recipe.model))


def fingerprint(recipe: Recipe) -> str:
    """The identity of the tokenizer: its configuration, its files' content, or its hub name."""
    where = source(recipe)
    if isinstance(where, TrainTokenizer):
        return where.model_dump_json()
    file = Path(where).expanduser() / "tokenizer.json"
    return xxhash.xxh3_128_hexdigest(file.read_bytes()) if file.is_file() else where


def load(where: str, key: str) -> Any:
    """A fast transformers tokenizer of a folder or of the hub. Raises UserError."""
    from transformers import AutoTokenizer

    folder = Path(where).expanduser()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else where, use_fast=True)
    except (OSError, ValueError) as error:
        raise UserError(Problem(key, f"no tokenizer at {where}: {str(error).splitlines()[0]}")) from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(Problem(key, f"{where}: has no fast tokenizer (tokenizer.json)"))
    return tokenizer


def train(config: TrainTokenizer, texts: Iterable[str]) -> Any:
    """A BERT-like tokenizer (special tokens, pairs and all) trained from texts."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(_SPECIAL.values())
    options = {
        "vocab_size": config.vocab_size, "min_frequency": config.min_frequency, "special_tokens": special,
        "show_progress": False,
    }  # fmt: skip
    if config.algorithm == "wordpiece":
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**options)
    else:
        backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
        backend.normalizer = normalizers.Lowercase() if config.lowercase else normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**options, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts, trainer)
    ends = {name: backend.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ends.items())
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **_SPECIAL)
