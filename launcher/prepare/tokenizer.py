"""Tokenizers: trained from the data, or loaded."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import xxhash

from launcher.config import kinds
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import PretrainedTokenizer, Recipe, TrainTokenizer

_SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def source(recipe: Recipe) -> TrainTokenizer | str:
    """How the recipe gets its tokenizer: by training, or from this folder or hub name. Raises UserError for neither."""
    if isinstance(recipe.tokenizer, TrainTokenizer):
        return recipe.tokenizer
    if isinstance(recipe.tokenizer, PretrainedTokenizer):
        return recipe.tokenizer.name
    own = getattr(kinds.of("models", recipe.model), "tokenizer", None)
    where = own(recipe.model) if own else None
    if where is None:
        what = f"missing: a model of kind {recipe.model.kind} brings none (train or pretrained)"
        raise UserError(Problem("tokenizer", what))
    return str(where)


def fingerprint(recipe: Recipe) -> str:
    """The identity of the tokenizer: its configuration, its files' content, or its hub name."""
    where = source(recipe)
    if isinstance(where, TrainTokenizer):
        return where.model_dump_json()
    found = Path(where).expanduser().glob("*")
    files = [path for path in sorted(found) if path.suffix in (".json", ".txt", ".model")]
    state = xxhash.xxh3_128()
    for path in files:
        state.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return str(state.hexdigest()) if files else where


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


def train(config: TrainTokenizer, texts: Callable[[], Iterable[str]]) -> Any:
    """A BERT-like tokenizer (special tokens, pairs and all) trained from texts, the same whenever it is trained."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = _wordpiece(config, texts) if config.algorithm == "wordpiece" else _bpe(config, texts)
    ends = {name: backend.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ends.items())
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **_SPECIAL)


def _options(config: TrainTokenizer, *more: str) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "min_frequency": config.min_frequency,
        "special_tokens": [*_SPECIAL.values(), *more],
        "show_progress": False,
    }


def _wordpiece(config: TrainTokenizer, texts: Callable[[], Iterable[str]]) -> Any:
    """The trainer numbers characters inside words as a hash map gives them, and breaks ties by number: another
    vocabulary each time. Given as special tokens they are numbered here; in what is made of them they are none."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def like_bert(model: Any) -> Any:
        made = Tokenizer(model)
        made.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        return made

    trained = like_bert(models.WordPiece(unk_token="[UNK]"))
    inside = [f"##{character}" for character in _inside_words(trained, texts())]
    trained.train_from_iterator(texts(), trainers.WordPieceTrainer(**_options(config, *inside)))
    made = like_bert(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    made.add_special_tokens(list(_SPECIAL.values()))
    return made


def _inside_words(backend: Any, texts: Iterable[str]) -> list[str]:
    """The normalised characters of the texts that may stand in a word after its first, sorted."""
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    found: set[str] = set()
    for character in seen:
        words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{character}"))
        if len(words) == 1:
            found.update(words[0][0][1:])
    return sorted(found)


def _bpe(config: TrainTokenizer, texts: Callable[[], Iterable[str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase() if config.lowercase else normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(**_options(config), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(texts(), trainer)
    return made
