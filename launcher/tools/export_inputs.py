"""What the inputs of an exported model are made with: a tokenizer by which plain transformers reads a text as training
did, or a processor of images."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.plan import _tiny_model, model_requirements
from launcher.plan.facts import Facts, of_run
from launcher.plan.padding_probe import Padding
from launcher.prepare import source_shards, tokenizer
from launcher.prepare.encode import TRAINING_SUFFIX, Encoder
from launcher.storage.run_dir import RunDir

_TYPES = "token_type_ids"


def add_inputs(folder: RunDir, recipe: Recipe, model: Any, to: Path) -> None:
    """Write the tokenizer of a run, or how images are brought to their size and normalised. `model`: of its
    architecture, with or without weights."""
    if folder.tokenizer.is_dir():
        shutil.copytree(folder.tokenizer, to, dirs_exist_ok=True)
        _adapt_tokenizer(folder, recipe, model, to)
    shape = of_run(folder.path).shape
    normalization = recipe.inner_task.normalization
    if len(shape) == 3 and shape[0] == 3 and normalization is not None:
        from transformers import ViTImageProcessorPil

        mean, deviation = (3 // len(values) * values for values in normalization)
        size = {"height": shape[1], "width": shape[2]}
        options = {"image_mean": mean, "image_std": deviation, "resample": 2}  # PIL's number for bilinear
        ViTImageProcessorPil(size=size, **options).save_pretrained(to)


def padding_side(recipe: Recipe, model: Any, facts: Facts) -> Padding | None:
    """Where the texts of a batch may be padded, as a small copy of the model shows; None: no copy could be tried."""
    if not facts.vocab_size or not hasattr(model, "config"):
        return None
    try:
        return _tiny_model.padding(model, model_requirements.of(recipe, facts))
    except UserError:  # a model that has been trained computes its samples, whatever a copy of it does
        return None


def goes_on(recipe: Recipe) -> bool:
    """Whether the model continues the texts that it is given: what ends a text is then not added to them."""
    return bool(plugins.task(recipe.inner_task).auto_class == "AutoModelForCausalLM")


def _adapt_tokenizer(folder: RunDir, recipe: Recipe, model: Any, to: Path) -> None:
    """Make the tokenizer files add what the encoder of the training data added, and give the inputs that it gave."""
    encoder, open_ended = Encoder(folder.tokenizer), goes_on(recipe)
    file = to / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    suffix = encoder.suffix[:0] if open_ended else encoder.suffix
    settings["model_max_length"] = recipe.data.max_length - len(encoder.suffix) + len(suffix)
    settings |= _tokens(settings, encoder, recipe, of_run(folder.path))
    side = Padding.LEFT if open_ended else padding_side(recipe, model, of_run(folder.path))
    if side in (Padding.LEFT, Padding.RIGHT):
        settings["padding_side"] = str(side)
    known = tokenizer.load(str(folder.tokenizer), "tokenizer").model_input_names
    names = [name for name in known if name != _TYPES or _takes_types(encoder, recipe, model)]
    framed = _frame(encoder, suffix.tolist())
    spaced = _space_words(encoder.backend) if "words" in plugins.task(recipe.inner_task).columns else False
    if framed or spaced:
        encoder.backend.save(str(to / "tokenizer.json"))
        settings = {key: value for key, value in settings.items() if key not in ("add_bos_token", "add_eos_token")}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # which takes tokenizer.json as it is
        settings |= {"add_prefix_space": True} if spaced else {}
    settings["model_input_names"] = names
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tokens(settings: dict[str, Any], encoder: Encoder, recipe: Recipe, facts: Facts) -> dict[str, str]:
    """The special tokens that the files lack: the ends of texts for a model that writes some, and one to pad with.
    By that of padding a classifier finds the last token of a text, so it gets no other one than in training."""
    auto_class, name = plugins.task(recipe.inner_task).auto_class, encoder.backend.id_to_token
    end, pad = facts.end_token_id, facts.pad_token_id
    found = dict[str, str | None]()
    if auto_class in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        found["bos_token"] = name(int(encoder.prefix[0])) if len(encoder.prefix) else None
        found["eos_token"] = None if end is None else name(end)
    if pad in facts.special_ids:
        found["pad_token"] = name(pad)
    elif auto_class != "AutoModelForSequenceClassification":
        found["pad_token"] = None if end is None else name(end)
    if goes_on(recipe) and len(encoder.prefix) and len(encoder.suffix) == 1:
        found[TRAINING_SUFFIX] = name(int(encoder.suffix[0]))
    return {key: token for key, token in found.items() if token is not None and not settings.get(key)}


def _takes_types(encoder: Encoder, recipe: Recipe, model: Any) -> bool:
    """Whether token types may be given: training gave them, or those of a single text change nothing."""
    columns = plugins.task(recipe.inner_task).columns
    if "question" in columns or any(
        getattr(leaf.config, "text_pair", None) for leaf in source_shards.leaves(recipe.data)
    ):
        return encoder.gives_types
    embedded = any(name.endswith("token_type_embeddings") for name, _ in model.named_modules())
    return embedded and not any(encoder.backend.encode("a").type_ids)


def _frame(encoder: Encoder, suffix: list[int]) -> bool:
    """Have the tokenizer put the encoder's prefix and this suffix around a text; whether it did otherwise before."""
    from tokenizers import processors

    backend, prefix = encoder.backend, encoder.prefix.tolist()
    wanted = [*prefix, *backend.encode("a", add_special_tokens=False).ids, *suffix]
    if backend.encode("a").ids == wanted:
        return False
    pair = [special.tolist() for special in encoder.frame().special]
    before, between, after = [*map(backend.id_to_token, prefix)], *([*map(backend.id_to_token, s)] for s in pair[1:])
    end = [backend.id_to_token(number) for number in suffix]
    own = backend.post_processor
    template = processors.TemplateProcessing(
        single=[*before, "$A", *end],
        pair=[*before, "$A", *between, "$B:1", *(f"{token}:1" for token in after)],
        special_tokens=[(token, backend.token_to_id(token)) for token in sorted({*before, *between, *after, *end})],
    )
    keeps = own is not None and own.num_special_tokens_to_add(False) == 0  # offsets of bytes
    backend.post_processor = processors.Sequence([own, template]) if keeps else template
    return True


def _space_words(backend: Any) -> bool:
    """Put a space before a text's first word, as before the others, where the tokenizer tells them apart; whether it
    does."""
    spec = json.loads(backend.to_str())
    found = [part for part in _parts(spec["pre_tokenizer"]) if part["type"] == "ByteLevel"]
    if not found or found[0].get("add_prefix_space"):
        return False
    found[0]["add_prefix_space"] = True
    backend.pre_tokenizer = type(backend).from_str(json.dumps(spec)).pre_tokenizer
    return True


def _parts(component: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A pre-tokenizer and, where it is a sequence, its parts."""
    if component is not None:
        yield component
        for part in component.get("pretokenizers", []):
            yield from _parts(part)
