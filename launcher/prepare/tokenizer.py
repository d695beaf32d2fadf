"""Tokenizers: trained on the data, or loaded."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from launcher.config.atomic_files import expanded, is_dir
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.recipe import Recipe
from launcher.config.tokenizer import PretrainedTokenizer, TrainTokenizer
from launcher.plan import expected_vocabulary
from launcher.prepare import remote_code, unigram
from launcher.storage import cache_root

if TYPE_CHECKING:
    from tokenizers import Tokenizer, normalizers
    from transformers import PreTrainedTokenizerBase

Texts = Callable[[], Iterable[str]]
"""Returns the texts to train from; a trainer reads them more than once."""

_FILE = "tokenizer_config.json"
_SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def source(recipe: Recipe) -> TrainTokenizer | PretrainedTokenizer:
    """Return the tokenizer's configuration: that of the recipe, or the model's own.

    Raises UserError if there is none.
    """
    found = recipe.tokenizer or expected_vocabulary.model_tokenizer(recipe)
    if found is None:
        what = f"missing: a model of kind {recipe.model.kind} brings none (train or pretrained)"
        raise UserError(Problem("tokenizer", what))
    return found


def fingerprint(recipe: Recipe) -> str:
    """Identify the tokenizer by its configuration, the content of its files, or its name and revision on the hub."""
    where = source(recipe)
    if isinstance(where, TrainTokenizer):
        return where.model_dump_json()
    found = files(where.name, where.trust_remote_code)
    state = xxhash.xxh3_128()
    for path in found:
        state.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    if found:
        return str(state.hexdigest())
    return where.name if where.revision is None else f"{where.name}@{where.revision}"


def files(name: str, code: bool) -> list[Path]:
    """Return the files of a tokenizer's folder, sorted; empty: no such folder. `code`: include Python files."""
    found = expanded(name).glob("*") if is_dir(expanded(name)) else []
    suffixes = (".json", ".txt", ".model", *((".py",) if code else ()))
    return [path for path in sorted(found) if path.suffix in suffixes]


def load(where: PretrainedTokenizer | str, key: str) -> "PreTrainedTokenizerBase":
    """Load a fast transformers tokenizer of the hub, or of a folder. `key`: its key in the recipe. Raises UserError."""
    from transformers import AutoTokenizer

    where = PretrainedTokenizer(name=where) if isinstance(where, str) else where
    name = cache_root.found(where.name, where.revision)
    allow = "model" if key == "tokenizer" else "tokenizer"  # the model's own tokenizer has no key in the recipe
    options = {"revision": where.revision or "main", "trust_remote_code": where.trust_remote_code}
    if where.trust_remote_code:
        remote_code.elsewhere(where.name, _FILE, key, where.revision)
    try:
        with remote_code.refused(where.name, _FILE, key, allow, where.revision):
            tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(Problem(key, f"no tokenizer at {where.name}: {first_line(error)}")) from None
    _remove_code(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(Problem(key, f"{where.name}: has no fast tokenizer (tokenizer.json)"))
    return tokenizer


def _remove_code(tokenizer: "PreTrainedTokenizerBase | None") -> None:
    """Remove references to custom code, so that a saved copy loads without it. tokenizer.json defines the tokens."""
    if tokenizer is not None:
        tokenizer._auto_class = None
        getattr(tokenizer, "init_kwargs", {}).pop("auto_map", None)


def train(config: TrainTokenizer, texts: Texts) -> "PreTrainedTokenizerBase":
    """Train a tokenizer with the special tokens of BERT. The same texts give the same tokenizer each time."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[config.algorithm](config, texts)
    ends = {name: backend.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ends.items())
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **_SPECIAL)


def _normaliser(config: TrainTokenizer) -> "normalizers.Normalizer":
    """Build the normaliser of texts: their Unicode form, then accents and case."""
    from tokenizers import Regex, normalizers

    defaults = {"wordpiece": "none", "bpe": "none" if config.lowercase else "nfc", "unigram": "nfkc"}
    form = config.unicode or defaults[config.algorithm]
    strip = config.strip_accents
    if strip is None:
        strip = config.lowercase and config.algorithm != "bpe"
    steps = [] if form == "none" else [_form(form)]
    if config.algorithm == "wordpiece":
        steps.append(normalizers.BertNormalizer(lowercase=config.lowercase, strip_accents=config.strip_accents))
    elif strip:
        others = {"clean_text": False, "handle_chinese_chars": False}
        steps.append(normalizers.BertNormalizer(**others, strip_accents=True, lowercase=config.lowercase))
    elif config.lowercase:
        steps.append(normalizers.Lowercase())
    if strip and form in ("nfc", "nfkc"):  # stripping accents decomposes letters
        steps.append(normalizers.NFC())
    if config.algorithm == "unigram":
        one_space = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        steps = [normalizers.Nmt(), *steps, *one_space]
    return steps[0] if len(steps) == 1 else normalizers.Sequence(steps)


def _form(name: str) -> "normalizers.Normalizer":
    from tokenizers import normalizers

    form: normalizers.Normalizer = getattr(normalizers, name.upper())()
    return form


def _options(config: TrainTokenizer, *more: str) -> dict[str, Any]:
    """Return the options of a trainer of `tokenizers`. `more`: further special tokens."""
    return {
        "vocab_size": config.vocab_size,
        "min_frequency": config.min_frequency,
        "special_tokens": [*_SPECIAL.values(), *more],
        "show_progress": False,
    }


def _wordpiece(config: TrainTokenizer, texts: Texts) -> "Tokenizer":
    """Train WordPiece, with the same vocabulary each time.

    The trainer numbers the characters inside words in the order of a hash map, and breaks ties by number. Each training
    would therefore give another vocabulary. Here the characters are numbered in advance, as special tokens of the
    trainer. The resulting tokenizer has them as usual tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    def like_bert(model: models.Model) -> Tokenizer:
        backend = Tokenizer(model)
        backend.normalizer = _normaliser(config)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        return backend

    texts = _without_rare_characters(texts, config.vocab_size)
    trained = like_bert(models.WordPiece(unk_token="[UNK]"))
    seen = (
        map(trained.normalizer.normalize_str, texts()) if config.unicode else texts()
    )  # a Unicode form may combine characters
    inside = [f"##{character}" for character in _inside_words(trained, seen)]
    trained.train_from_iterator(texts(), trainers.WordPieceTrainer(**_options(config, *inside)))
    made = like_bert(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    made.add_special_tokens(list(_SPECIAL.values()))
    return made


def _without_rare_characters(texts: Texts, vocab_size: int) -> Texts:
    """Replace the rarest characters by spaces if the vocabulary has no room for all characters.

    Each takes two places: at the beginning of words and inside them. The tokenizer will not know the rare ones.
    """
    seen: set[str] = set()
    for text in texts():
        seen.update(text)
    room = max(1, (vocab_size - len(_SPECIAL)) // 2)
    if len(seen) <= room:
        return texts
    counts = Counter[str]()
    for text in texts():
        counts.update(text)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:room]
    rare = dict.fromkeys(map(ord, seen.difference(frequent)), " ")
    return lambda: (text.translate(rare) for text in texts())


def _inside_words(backend: "Tokenizer", texts: Iterable[str]) -> list[str]:
    """Return the normalised characters of the texts that may follow the first one of a word, sorted."""
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    found: set[str] = set()
    for character in seen:  # tried after a q, which combines with no accent
        words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"q{character}"))
        if len(words) == 1:
            found.update(words[0][0][1:])
    return sorted(found)


def _bpe(config: TrainTokenizer, texts: Texts) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = _normaliser(config)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(**_options(config), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(texts(), trainer)
    return made


def _unigram(config: TrainTokenizer, texts: Texts) -> "Tokenizer":
    """Train a unigram model as SentencePiece does.

    A piece holds the beginning of at most one word, and either letters or punctuation. Training may therefore split
    words between letters and punctuation, which the tokenizer need not do.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    proposed = Tokenizer(models.BPE())
    proposed.normalizer = _normaliser(config)
    parts = pre_tokenizers.Split(Regex(r"▁?\w+|▁?[^\w▁]+"), "isolated")
    proposed.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), parts])
    trainer = trainers.BpeTrainer(
        vocab_size=2 * config.vocab_size, min_frequency=config.min_frequency, max_token_length=16, show_progress=False
    )
    proposed.train_from_iterator(texts(), trainer)
    words, size = _words(proposed, texts()), config.vocab_size - len(_SPECIAL)
    special = [(name, 0.0) for name in _SPECIAL.values()]
    made = Tokenizer(models.Unigram([*special, *unigram.pieces(words, proposed.get_vocab(), size)], unk_id=0))
    made.normalizer, made.pre_tokenizer = proposed.normalizer, pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(list(_SPECIAL.values()))
    return made


def _words(backend: "Tokenizer", texts: Iterable[str]) -> dict[str, int]:
    """Return the number of occurrences of each word of the texts.

    Each different string between two spaces is split only once, which saves time.
    """
    between, found = Counter[str](), Counter[str]()
    for text in texts:
        between.update(backend.normalizer.normalize_str(text).split(" "))
    for piece, count in between.items():
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(piece):
            found[word] += count
    return dict(found)
