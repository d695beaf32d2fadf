"""The tokenizer or image processor of an export. With it, plain transformers prepares inputs as in training."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.plan import _tiny_model, model_requirements
from launcher.plan.facts import Facts, of_run
from launcher.plan.padding_probe import Padding
from launcher.prepare import tokenizer
from launcher.prepare.encode import TRAINING_SUFFIX, Encoder
from launcher.storage.run_dir import RunDir
from launcher.tools.export.card_snippets import has_text_pairs
from launcher.tools.trained_model import is_transformers

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

_TYPES = "token_type_ids"


def add_inputs(folder: RunDir, recipe: Recipe, model: "torch.nn.Module", to: Path) -> None:
    """Write the tokenizer of a run, or its image processor. `model`: that of the run, with or without weights."""
    if folder.tokenizer.is_dir():
        shutil.copytree(folder.tokenizer, to, dirs_exist_ok=True)
        _adapt_tokenizer(folder, recipe, model, to)
    shape = of_run(folder.path).shape
    normalization = recipe.inner_task.normalization
    if len(shape) == 3 and shape[0] == 3 and normalization is not None:
        from transformers import ViTImageProcessorPil

        mean, deviation = (3 // len(values) * values for values in normalization)
        size = {"height": shape[1], "width": shape[2]}
        bilinear = 2  # PIL's number for it
        ViTImageProcessorPil(size=size, image_mean=mean, image_std=deviation, resample=bilinear).save_pretrained(to)


def padding_side(recipe: Recipe, model: "torch.nn.Module", facts: Facts) -> Padding | None:
    """Return the side on which texts of a batch may be padded, found with a small copy of the model; None: unknown."""
    if not facts.vocab_size or not is_transformers(model):
        return None
    try:
        return _tiny_model.padding(model, model_requirements.of(recipe, facts))
    except UserError:  # the model was trained, so that it takes its samples even if the copy fails
        return None


def _continues_texts(recipe: Recipe) -> bool:
    """Return whether the model continues its input, which then must not have an end token."""
    return plugins.task(recipe.inner_task).auto_class == "AutoModelForCausalLM"


def _adapt_tokenizer(folder: RunDir, recipe: Recipe, model: "torch.nn.Module", to: Path) -> None:
    """Change the tokenizer files so that they add the special tokens of training and return the inputs of training."""
    encoder, open_ended = Encoder(folder.tokenizer), _continues_texts(recipe)
    file = to / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    suffix = encoder.suffix[:0] if open_ended else encoder.suffix
    settings["model_max_length"] = recipe.data.max_length - len(encoder.suffix) + len(suffix)
    settings |= _special_tokens(settings, encoder, recipe, of_run(folder.path))
    side = Padding.LEFT if open_ended else padding_side(recipe, model, of_run(folder.path))
    if side in (Padding.LEFT, Padding.RIGHT):
        settings["padding_side"] = str(side)
    known = tokenizer.load(str(folder.tokenizer), "tokenizer").model_input_names
    names = [name for name in known if name != _TYPES or _takes_token_types(encoder, recipe, model)]
    framed = _set_frame(encoder, suffix.tolist())
    spaced = _set_prefix_space(encoder.backend) if "words" in plugins.task(recipe.inner_task).columns else False
    if framed or spaced:
        encoder.backend.save(str(to / "tokenizer.json"))
        settings = {key: value for key, value in settings.items() if key not in ("add_bos_token", "add_eos_token")}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # it uses tokenizer.json unchanged
        settings |= {"add_prefix_space": True} if spaced else {}
    settings["model_input_names"] = names
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _special_tokens(settings: JsonObject, encoder: Encoder, recipe: Recipe, facts: Facts) -> dict[str, str]:
    """Return the special tokens that the files lack: begin and end tokens for a generating model, and a padding token.

    A classifier only gets the padding token of training, because it finds the last token of a text by it.
    """
    auto_class, name = plugins.task(recipe.inner_task).auto_class, encoder.backend.id_to_token
    end, pad = facts.end_token_id, facts.pad_token_id
    tokens = dict[str, str | None]()
    if auto_class in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        tokens["bos_token"] = name(int(encoder.prefix[0])) if len(encoder.prefix) else None
        tokens["eos_token"] = None if end is None else name(end)
    if pad in facts.special_ids:
        tokens["pad_token"] = name(pad)
    elif auto_class != "AutoModelForSequenceClassification":
        tokens["pad_token"] = None if end is None else name(end)
    if _continues_texts(recipe) and len(encoder.prefix) and len(encoder.suffix) == 1:
        tokens[TRAINING_SUFFIX] = name(int(encoder.suffix[0]))
    return {key: token for key, token in tokens.items() if token is not None and not settings.get(key)}


def _takes_token_types(encoder: Encoder, recipe: Recipe, model: "torch.nn.Module") -> bool:
    """Return whether the model takes token types: training used them, or those of a single text have no effect."""
    if "question" in plugins.task(recipe.inner_task).columns or has_text_pairs(recipe):
        return encoder.gives_types
    embedded = any(name.endswith("token_type_embeddings") for name, _ in model.named_modules())
    return embedded and not any(encoder.backend.encode("a").type_ids)


def _set_frame(encoder: Encoder, suffix: list[int]) -> bool:
    """Make the tokenizer add the encoder's prefix and this suffix to a text. Returns whether it was changed."""
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
    only_offsets = own is not None and own.num_special_tokens_to_add(False) == 0
    backend.post_processor = processors.Sequence([own, template]) if only_offsets else template
    return True


def _set_prefix_space(backend: "Tokenizer") -> bool:
    """Make a byte-level tokenizer also put a space before the first word of a text. Returns whether it was changed."""
    spec = json.loads(backend.to_str())
    byte_level = [part for part in _pre_tokenizers(spec["pre_tokenizer"]) if part["type"] == "ByteLevel"]
    if not byte_level or byte_level[0].get("add_prefix_space"):
        return False
    byte_level[0]["add_prefix_space"] = True
    backend.pre_tokenizer = type(backend).from_str(json.dumps(spec)).pre_tokenizer
    return True


def _pre_tokenizers(component: JsonObject | None) -> Iterator[JsonObject]:
    """Yield a pre-tokenizer and, if it is a sequence, its parts."""
    if component is not None:
        yield component
        for part in component.get("pretokenizers", []):
            yield from _pre_tokenizers(part)
